import re

import pytest
from typer.main import get_command

from talk2dino.cli import build_app
from talk2dino.errors import InputError
from talk2dino.io.settings import build_options
from talk2dino.training.options import REPORTING, TrainOptions

#: The published training, from its code and configuration.
PUBLISHED = {
    "strategy": "max", "head_temperature": 1.0, "side": "text", "depth": 2, "width": None, "activation": "tanh",
    "shared_dim": None, "temperature": 0.07, "learned_temperature": False, "published_scale": True,
    "mask_same_image": False, "optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant",
    "warmup_steps": 0, "batch_size": 128, "keep_partial_batch": True, "epochs": 100, "max_steps": None, "seed": 123,
    "validation_share": 0.0,
}  # fmt: skip


def test_published_means_all_of_the_published_training():
    values = TrainOptions.published(save_every=7, lr=1e-4).model_dump()
    assert {name: value for name, value in values.items() if name not in REPORTING} == PUBLISHED
    assert values["save_every"] == 7


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_contradicts_the_published_training_is_refused(name):
    others = {
        "strategy": "mean", "side": "vision", "activation": "relu", "optimizer": "adamw", "schedule": "cosine",
        "width": 5, "shared_dim": 5, "max_steps": 5, "batch_size": 64, "validation_share": 0.5,
    }  # fmt: skip
    published = PUBLISHED[name]
    other = others[name] if name in others else not published if isinstance(published, bool) else published + 1
    values = {name: other, **({"side": "both"} if name == "shared_dim" else {})}
    with pytest.raises(
        InputError, match=rf"{name}={other!r}.* contradicts the published training, which has .*{name}={published!r}"
    ):
        TrainOptions.published(**values)


def test_the_defaults_differ_from_the_published_training_in_two_settings():
    ours, published = TrainOptions().model_dump(), TrainOptions.published().model_dump()
    assert {name for name in ours if ours[name] != published[name]} == {"published_scale", "keep_partial_batch"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": float("inf")}, r"option lr: .*finite number \(got inf\)"),
        ({"seed": -1}, r"option seed: .*\(got -1\)"),
        ({"temperature": 0}, r"option temperature: .*greater than 0"),
        ({"strategy": "best"}, r"option strategy: expected one of max, pairwise-max, .*\(got 'best'\)"),
        ({"activation": "elu"}, r"option activation: expected one of tanh, relu, gelu, sigmoid \(got 'elu'\)"),
        ({"shared_dim": 11}, "shared_dim is the width where both sides meet and needs side 'both'; got 'text'"),
        ({"learning_rat": 1, "lr_": 2}, r"unknown option 'learning_rat'.*unknown option 'lr_'; did you mean lr"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(values, message):
    with pytest.raises(InputError, match=message):
        build_options(TrainOptions, values)


def test_the_help_states_the_defaults():
    """Every setting has a flag whose help ends with its default."""
    flags = {parameter.name: parameter for parameter in get_command(build_app()).commands["train"].params}
    words = {"width": "the output's", "shared_dim": "the vision's", "max_steps": "none", "lr": "1e-4"}
    words |= {"validate_every": "an epoch", "save_every": "an epoch"}
    for name, field in TrainOptions.model_fields.items():
        shown = re.search(r"\[default: (.*)\]$", flags[name].help)
        expected = "off" if field.default is False else words.get(name, str(field.default))
        assert shown is not None, name
        assert shown[1] == expected
