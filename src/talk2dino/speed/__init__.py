"""How fast is it here? Everything as a ratio to something that the same run measured on the same machine.

``talk2dino bench`` is the way in; :func:`talk2dino.speed.suite.run_bench` from Python.
"""
