"""How kopf is set up: what it watches, and what it must not do."""

import inspect
import itertools

import kopf
from kopf._cogs.structs.references import Resource

from ax_operator.control import handlers
from ax_operator.control.observe import OWNED, WATCHED
from ax_operator.control.operator import OURS
from ax_operator.kinds import AXMODEL, NODE, SECRET


def resource(kind) -> Resource:
    return Resource(
        group=kind.group,
        version=kind.version,
        plural=kind.plural,
        kind=kind.kind,
        singular=kind.kind.lower(),
        namespaced=kind.namespaced,
    )


def test_of_what_we_make_only_our_own_objects_are_watched():
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    selectors = {kind: settings.watching.label_selectors.collect(resource(kind)) for kind in WATCHED}
    assert selectors == {kind: [OURS] if kind in OWNED else [] for kind in WATCHED}
    assert selectors[AXMODEL] == selectors[NODE] == []
    assert SECRET not in WATCHED


def test_kopf_writes_nothing_and_never_gives_up_a_watch():
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.networking.enforce_retry_after
    assert settings.watching.inactivity_timeout > 60  # a bookmark comes every minute
    delays = settings.networking.error_backoffs
    assert list(itertools.islice(delays, 200))[-1] == list(itertools.islice(delays, 50))[-1] == 10


def test_each_kind_has_an_event_handler_and_nothing_else():
    registry = handlers._registry(None, None)
    found = {(h.selector.group, h.selector.version, h.selector.any_name) for h in registry._watching.get_all_handlers()}
    assert found == {(kind.group, kind.version, kind.plural) for kind in WATCHED}
    for other in (registry._changing, registry._spawning, registry._indexing, registry._webhooks):
        assert list(other.get_all_handlers()) == []


def test_no_handler_runs_in_a_thread_of_its_own():
    registry = handlers._registry(None, None)
    found = [*registry._watching.get_all_handlers(), *registry._activities.get_all_handlers()]
    assert len(found) > len(WATCHED)
    assert [h.id for h in found if not inspect.iscoroutinefunction(h.fn)] == []
