"""``talk2dino serve``: a web page and an HTTP service on top of the pipeline.

    request -> security, bounds -> routes -> service -> batches of one seen size -> pipeline -> answer

options.py    ServeOptions: address, token and every bound
app.py        create_app: the ASGI application
lifecycle.py  listening, loading in steps, stopping; workers.py several processes
service.py    what routes ask for: features, words, labels; batching.py, sessions.py, answers.py are its parts
routes/       one file per group of addresses; schemas.py what they accept, forms.py uploads
security.py, bounds.py, observe.py, problems.py   tokens and headers, body limits, metrics and log, errors (RFC 9457)
"""
