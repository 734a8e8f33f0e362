// The interface in English and Chinese.

const TEXTS = {
  en: {
    title: "talk2dino", language: "中文", languageLabel: "Switch to Chinese (中文)", theme: "Light or dark", open: "Open image",
    skip: "Skip to the words",
    stage: "Image with its masks. Arrow keys move the point by one patch; Escape removes it.",
    dropTitle: "Drop an image here", dropText: "or paste one, choose a file, or start with an example:",
    drop: "Drop the image to open it",
    views: "What the image shows", view_classes: "Masks", view_similar: "Similar patches", view_heads: "Heads", view_compare: "Compare",
    mark: "Mark an example", markHint: "Drag a box around something, or click a patch. Escape stops.", opacity: "Opacity of the masks",
    words: "Words", wordsHelp: "Commas separate words. Synonyms: car=red car|automobile",
    addPlaceholder: "sky, grass, car=red car|automobile", addLabel: "Words to look for", add: "Add", addNegative: "Add as not wanted",
    tryWords: "Try:", noWords: "Type what you are looking for. Each word gets a mask.", allOff: "All words are switched off.",
    wordList: "Words and their masks", colourOf: "Colour of {name}", showWord: "Use {name}", moreOf: "Settings of {name}",
    removeWord: "Remove {name}", removed: "{name} removed.", undo: "Undo", notFound: "not found", negative: "not wanted",
    negativeHelp: "Not wanted: its pixels become background", synonyms: "Synonyms, separated by |", ownThreshold: "Threshold of {name}",
    useOwn: "Own threshold", exampleOf: "by example", exampleCount: "{count} examples", shareOf: "{share} of the image", understood: "understood as {word} ({how})",
    background: "Background", backgroundHelp: "Pixels where no word reaches its threshold stay without a mask.", threshold: "Threshold of all words",
    clean: "Clean with attention", cleanHelp: "Mixes the scores with the attention heads that answer to each word.",
    refine: "Refine edges", refineHelp: "PAMR sharpens the masks on the server when you let go of a slider.",
    options: "Masks", reset: "Reset",
    preview: "Preview without refinement. Let go to refine on the server.", refining: "Refining on the server ...", refined: "Refined on the server in {seconds} s",
    local: "Computed in this browser", server: "Computed on the server",
    point: "At this pixel", pointHint: "Point at the image to see how every word scores there.", pointAt: "x {x}, y {y}, patch {row}, {column}",
    pointNoWords: "Add words to see their scores here.", similarHint: "Point at the image: brighter patches look more like the one under the pointer to DINO.",
    headsTitle: "Attention heads", headsHint: "Where each head of the last block looks, and how well it answers to each word. The frame marks the head that training would select for the word.",
    head: "Head {number}", headOf: "Head {number}: {value} with {word}", best: "selected for {word}", noHeads: "This model sends no attention heads.",
    headTable: "Cosine of each word with each head", word: "Word",
    compareTitle: "Compare methods", left: "Left", right: "Right", wipe: "Boundary between the two results", compareLoading: "{name} is computed on the server ...",
    compareNote: "Both sides show the same image and words. Thresholds of other methods are their own.", segments: "Segments found without words",
    unavailable: "{name} is not available: {reason}",
    download: "Save", overlayPng: "Overlay PNG", palettePng: "Palette PNG", cocoJson: "COCO JSON", npz: "NumPy .npz", code: "Copy as code",
    copyPython: "Copy as Python", copyShell: "Copy as command line", copied: "Copied.", copyFailed: "Copying was not allowed; select the text instead.", close: "Close", codeTitle: "The call that gives this result",
    exampleTitle: "This is a ...", exampleName: "Name of the example", exampleAdd: "Use as a word", cancel: "Cancel",
    exampleSize: "Mean of {count} patches", exampleOnePatch: "One patch",
    tokenTitle: "This service asks for a token", tokenLabel: "Token", tokenWrong: "The token was not accepted.", tokenSend: "Continue",
    loadingModel: "The model is loading: {step}", loading: "Starting ...", unreachable: "The service cannot be reached. Trying again ...",
    encoding: "Reading the image ...", encoded: "{name}, {width} x {height}, encoded once in {seconds} s", embedding: "Reading {name} ...",
    notImage: "{name} is not an image.", noWebgl: "This page needs WebGL2, which this browser does not offer or has switched off.",
    tooMany: "At most {count} words fit on this page.", failed: "{message}", expired: "The image had expired on the server and was encoded again.",
    windows: "This image is too elongated to be seen as a whole. The server segments it in windows; this view needs a whole image.",
    ready: "Ready", examplesLabel: "Example images", modelLabel: "{name} on {device}", tools: "Tools", help: "API documentation",
  },
  zh: {
    title: "talk2dino", language: "English", languageLabel: "切换到英文（English）", theme: "浅色或深色", open: "打开图片",
    skip: "跳到词语",
    stage: "图片及其掩码。方向键按图块移动取样点，Esc 取消。",
    dropTitle: "把图片拖到这里", dropText: "也可以粘贴、选择文件，或从示例开始：",
    drop: "松开以打开图片",
    views: "图片上显示什么", view_classes: "掩码", view_similar: "相似图块", view_heads: "注意力头", view_compare: "对比",
    mark: "框选示例", markHint: "拖出一个框，或点击一个图块。按 Esc 结束。", opacity: "掩码不透明度",
    words: "词语", wordsHelp: "用逗号分隔。同义词：汽车=红色汽车|轿车",
    addPlaceholder: "天空，草地，汽车=红色汽车|轿车", addLabel: "要找的词语", add: "添加", addNegative: "添加为排除词",
    tryWords: "试试：", noWords: "输入要找的东西，每个词语会得到一个掩码。", allOff: "所有词语都已关闭。",
    wordList: "词语及其掩码", colourOf: "{name} 的颜色", showWord: "使用 {name}", moreOf: "{name} 的设置",
    removeWord: "删除 {name}", removed: "已删除 {name}。", undo: "撤销", notFound: "未找到", negative: "排除",
    negativeHelp: "排除：它的像素归入背景", synonyms: "同义词，用 | 分隔", ownThreshold: "{name} 的阈值",
    useOwn: "单独的阈值", exampleOf: "来自示例", exampleCount: "{count} 个示例", shareOf: "占图片的 {share}", understood: "理解为 {word}（{how}）",
    background: "背景", backgroundHelp: "没有任何词语达到阈值的像素不着色。", threshold: "所有词语的阈值",
    clean: "用注意力清理", cleanHelp: "把得分与响应该词语的注意力头混合。",
    refine: "细化边缘", refineHelp: "松开滑块后，服务器用 PAMR 锐化掩码。",
    options: "掩码选项", reset: "重置",
    preview: "未细化的预览。松开滑块后由服务器细化。", refining: "服务器正在细化……", refined: "服务器细化完成，用时 {seconds} 秒",
    local: "在浏览器中计算", server: "在服务器上计算",
    point: "此像素", pointHint: "把指针移到图片上，查看每个词语在该处的得分。", pointAt: "x {x}，y {y}，图块 {row}, {column}",
    pointNoWords: "添加词语后，这里显示得分。", similarHint: "把指针移到图片上：越亮的图块，在 DINO 看来越像指针下的图块。",
    headsTitle: "注意力头", headsHint: "最后一层的每个头看向哪里，以及它对每个词语的响应。边框标出训练时会为该词语选择的头。",
    head: "头 {number}", headOf: "头 {number}：与 {word} 的余弦为 {value}", best: "为 {word} 选中", noHeads: "这个模型没有提供注意力头。",
    headTable: "每个词语与每个头的余弦", word: "词语",
    compareTitle: "对比方法", left: "左侧", right: "右侧", wipe: "两个结果的分界", compareLoading: "服务器正在计算 {name}……",
    compareNote: "两侧是同一图片和同一组词语。其他方法使用各自的阈值。", segments: "不用词语得到的分割",
    unavailable: "{name} 不可用：{reason}",
    download: "保存", overlayPng: "叠加图 PNG", palettePng: "调色板 PNG", cocoJson: "COCO JSON", npz: "NumPy .npz", code: "复制代码",
    copyPython: "复制 Python 代码", copyShell: "复制命令行", copied: "已复制。", copyFailed: "浏览器不允许复制，请手动选择文字。", close: "关闭", codeTitle: "得到此结果的调用",
    exampleTitle: "这是……", exampleName: "示例的名称", exampleAdd: "作为词语使用", cancel: "取消",
    exampleSize: "{count} 个图块的平均", exampleOnePatch: "一个图块",
    tokenTitle: "此服务需要令牌", tokenLabel: "令牌", tokenWrong: "令牌未被接受。", tokenSend: "继续",
    loadingModel: "正在加载模型：{step}", loading: "正在启动……", unreachable: "无法连接服务，正在重试……",
    encoding: "正在读取图片……", encoded: "{name}，{width} x {height}，编码一次，用时 {seconds} 秒", embedding: "正在读取 {name}……",
    notImage: "{name} 不是图片。", noWebgl: "此页面需要 WebGL2，但浏览器不支持或已关闭。",
    tooMany: "此页面最多容纳 {count} 个词语。", failed: "{message}", expired: "图片在服务器上已过期，已重新编码。",
    windows: "图片过于狭长，无法整体处理。服务器按窗口分割；此视图需要完整的图片。",
    ready: "就绪", examplesLabel: "示例图片", modelLabel: "{name}，{device}", tools: "工具", help: "API 文档",
  },
};

const KEPT = "talk2dino-language";
let language = localStorage.getItem(KEPT) ?? ((navigator.languages?.[0] ?? navigator.language).toLowerCase().startsWith("zh") ? "zh" : "en");

export const currentLanguage = () => language;

/** A text in the language of the interface; {name} is replaced by values.name. */
export function t(key, values = {}) {
  return (TEXTS[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Fill every element with data-t (text), data-t-label, data-t-title or data-t-placeholder. */
export function translate(root = document) {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const [data, attribute] of [["tLabel", "aria-label"], ["tTitle", "title"], ["tPlaceholder", "placeholder"]]) {
    const name = data.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    for (const element of root.querySelectorAll(`[data-${name}]`)) element.setAttribute(attribute, t(element.dataset[data]));
  }
}

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem(KEPT, language);
  translate();
}
