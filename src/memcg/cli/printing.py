"""Text for a terminal or a log, made of names that anyone may have chosen."""


def printable(text: str) -> str:
    """*text*, with escapes for what would move the cursor, break the line or be unreadable."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
