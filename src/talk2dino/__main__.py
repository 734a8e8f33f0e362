"""``python -m talk2dino`` is the command line."""

from talk2dino.cli import main

if __name__ == "__main__":
    main()
