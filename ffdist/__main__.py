"""`python -m ffdist`."""

from ffdist.cli import main

if __name__ == "__main__":
    main()
