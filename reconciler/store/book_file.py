"""
Book file: the book of the notifications of one fleet, in the data folder.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from reconciler.core.notifications.book import Book
from reconciler.files import make_folder, replace_durably
from reconciler.git.repository import Repository
from reconciler.store.presence import fleet_file

log = logging.getLogger(__name__)


class BookFile:
    """Implements `controller.ports.BookStore`; without its file nothing of the past is told."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of_fleet(cls, repository: Repository, branch: str, data: Path) -> "BookFile":
        """Return the file of a fleet in the data folder, which may be that of several."""
        return cls(fleet_file(repository, branch, data / "notifications"))

    def read(self) -> Book:
        """Return the book; an empty one if there is none, or none that can be read."""
        try:
            return Book.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Book()
        except (OSError, ValidationError) as error:
            log.warning(
                "%s cannot be read, and notifications begin anew: %s", self._path, type(error).__name__
            )
            return Book()

    def write(self, book: Book) -> None:
        """Write the book; it is on disk when this returns. Raises OSError."""
        make_folder(self._path.parent)
        replace_durably(self._path, book.model_dump_json(exclude_defaults=True).encode())
