"""A command whose help lists its options under headings."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import click


class GroupedCommand(click.Command):
    """A command with headings over its options; ``--help`` comes last.

    Attributes:
        sections: the options by heading.
    """

    sections: ClassVar[Mapping[str, Sequence[click.Option]]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section per heading."""
        last = list(self.sections)[-1:]
        for heading, options in self.sections.items():
            own = [self.get_help_option(ctx)] if heading in last else []
            records = [each.get_help_record(ctx) for each in (*options, *own) if each]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record])
