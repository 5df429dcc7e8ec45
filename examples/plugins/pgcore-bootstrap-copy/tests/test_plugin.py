"""What the method says when it cannot begin; that it can is shown by a real cluster in pgcore's own tests."""

import pytest

from pgcore.plugin import CommandFailedError, ServerError
from pgcore.testing.methods import bootstrap_request
from pgcore_bootstrap_copy.plugin import pgcore_bootstrap_methods


@pytest.mark.parametrize("options", [None, {}, {"conninfo": ""}])
def test_without_a_source_there_is_no_cluster(tmp_path, options):
    (method,) = pgcore_bootstrap_methods()
    with pytest.raises(ServerError, match=r"bootstrap\.copy.conninfo is missing"):
        method.run(bootstrap_request(tmp_path / "data", options))


def test_a_source_that_does_not_answer_fails_with_the_words_of_the_tool(tmp_path):
    (method,) = pgcore_bootstrap_methods()
    with pytest.raises(CommandFailedError, match="pg_basebackup"):
        method.run(bootstrap_request(tmp_path / "data", {"conninfo": "host=127.0.0.1 port=1"}))
