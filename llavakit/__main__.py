"""`python -m llavakit` is `llavakit`; `torchrun -m llavakit` starts it on every rank."""

from llavakit.cli import main

if __name__ == "__main__":
    main()
