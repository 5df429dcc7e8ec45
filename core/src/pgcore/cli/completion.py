"""``pgcore completion``: what a shell reads to complete commands, options and the names of members (cli 1)."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete words of this program, for its start-up file.

    \b
    bash:  eval "$(pgcore completion bash)"            in ~/.bashrc
    zsh:   eval "$(pgcore completion zsh)"             in ~/.zshrc
    fish:  pgcore completion fish > ~/.config/fish/completions/pgcore.fish
    """
    root = ctx.find_root()
    program = root.info_name or "pgcore"
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells above"
    click.echo(kind(root.command, {}, program, f"_{program.upper()}_COMPLETE").source())
