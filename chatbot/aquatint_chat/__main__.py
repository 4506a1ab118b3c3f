"""``python -m aquatint_chat``."""

from aquatint_chat.commands import main

main()
