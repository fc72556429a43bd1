"""What every command shares: the printer and the client, both made on first use.

`main` makes one session a run and hands it to the command; completion makes a hurried one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unkai_cli.output import Printer

if TYPE_CHECKING:
    from unkai_cli.client import Client


class Session:
    """The global options as they stand, and what is made from them."""

    def __init__(
        self,
        *,
        context: str = "",
        project: str = "",
        form: str = "table",
        headers: bool = True,
        hurried: bool = False,
        traceparent: str = "",
    ) -> None:
        self.context_name = context
        self.project = project
        """Project named on the command line; empty: the context's."""
        self.all_projects = False
        self.form = form
        self.headers = headers
        self._hurried = hurried
        self._traceparent = traceparent
        self._client: Client | None = None

    @property
    def printer(self) -> Printer:
        """A printer in the format asked for."""
        return Printer(self.form, headers=self.headers)

    @property
    def client(self) -> Client:
        """The client of the context in use."""
        if self._client is None:
            from unkai_cli import settings
            from unkai_cli.client import Client, Patience

            context = settings.chosen(settings.load(), self.context_name)
            patience = Patience(tries=1, timeout_s=1.0) if self._hurried else Patience()
            self._client = Client(
                context,
                self.project,
                all_projects=self.all_projects,
                patience=patience,
                traceparent=self._traceparent,
            )
        return self._client

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
