"""What the command line gets: ``pgcore notes CLUSTER``. Imported when somebody says that, never by an agent."""

import json
from urllib.parse import urljoin
from urllib.request import urlopen

import click

from pgcore.plugin import CliSession, hookimpl


@click.command("notes")
@click.argument("cluster", required=False)
@click.pass_obj
def notes(session: CliSession, cluster: str | None) -> None:
    """Show the notes of all members of a cluster."""
    with session.cluster(cluster) as seen:
        view = seen.read()
    for member in view.members:
        try:
            with urlopen(urljoin(member.api_url or "", "/notes"), timeout=5) as answer:
                left = json.load(answer)["notes"]
        except (OSError, ValueError, KeyError) as error:
            raise click.ClickException(f"{member.name} does not tell: {error}") from error
        for text in left:
            click.echo(f"{member.name}: {text}")


@hookimpl
def pgcore_cli_commands() -> list[click.Command]:
    """Asked for when one of them is called."""
    return [notes]
