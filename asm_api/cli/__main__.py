"""`python -m asm_api.cli`, as the stack starts its children."""

from asm_api.cli import main

main()
