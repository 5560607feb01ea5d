"""What can go wrong with a lab; each says what the caller can do about it."""

from __future__ import annotations


class LabError(Exception):
    """The command cannot be done; the text tells a person why and what to do."""


class TopologyError(LabError):
    """The topology is refused; `problems` holds (path, message) pairs, nothing has been created."""

    def __init__(self, problems: list[tuple[str, str]], source: str = "") -> None:
        self.problems = problems
        self.source = source
        super().__init__("\n".join(f"{path}: {message}" if path else message for path, message in problems))


class NoSuchLabError(LabError):
    """No lab of that name exists, or the command needs `--name` because there are several."""


class NotThereError(LabError):
    """The lab has no machine, component, network or cluster of that name."""


class NotReadyError(LabError):
    """The lab did not become ready in time, or one of its parts cannot start."""
