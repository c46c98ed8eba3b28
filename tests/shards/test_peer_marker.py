"""A missing peer package skips its tests, or fails them where CI requires it."""

from __future__ import annotations

import sys
from typing import Any

import pytest


@pytest.fixture
def require_peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The function of tests/conftest.py, in a world without webdataset."""
    monkeypatch.setitem(sys.modules, "webdataset", None)
    plugins = request.config.pluginmanager.get_plugins()
    return next(plugin.require_peer for plugin in plugins if hasattr(plugin, "require_peer"))


def test_a_missing_peer_skips_with_its_reason(require_peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs webdataset: import of webdataset halted"):
        require_peer("webdataset")


def test_a_missing_peer_fails_where_peers_are_required(require_peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="HEADRACE_REQUIRE_PEERS=1, but the test needs webdataset"):
        require_peer("webdataset")
