"""A command that is also a group: words that name none of its parts are its own arguments."""

from __future__ import annotations

import click


class GroupWithDefault(click.Group):
    """A group whose part ``default`` is meant when no other is named.

    A file that is called like a part is given as ``./name``.
    """

    default = "extract"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default before arguments that name no part and ask for no help."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)
