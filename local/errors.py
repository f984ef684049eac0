"""What can go wrong, as one exception whose text says what to do."""


class LocalError(Exception):
    """The machine or a step cannot do what was asked; the message says what to change."""
