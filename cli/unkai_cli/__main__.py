"""`python -m unkai_cli` is `unkai`."""

from unkai_cli.main import main

main()
