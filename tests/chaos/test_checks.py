"""The checks of the chaos run find what they look for: each promise is broken here once, and each is kept once."""

import pytest

from checks import LoggedCheck, PatternCheck, PlainCheck, TableCheck
from failovers import Sentinels
from faults import OF_A_NODE
from ledger import END, Ledger
from slots import Slots
from topologies import Standalone


class Scene:
    """One check over a ledger in which publisher `s` has published numbers 1 to 20."""

    def __init__(self, kind, channel="room:1", **options):
        self.ledger, self.broken = Ledger(), []
        self.ledger.channel(channel).numbers["s"] = 20
        self.channel = channel
        self.check = kind(channel, self.ledger, lambda rule, channel, detail: self.broken.append(rule), **options)

    def begin(self, resumed=False, **entry):
        self.check.welcome({"channel": self.channel, "epoch": "e1", "offset": 0, **entry}, resumed)

    def events(self, *numbers, shift=0, channel=None, event="n"):
        for number in numbers:
            data = {"p": "s", "n": number, "k": number % 3}
            self.check.event({"channel": channel or self.channel, "event": event, "data": data, "offset": number + shift})

    def resync(self, reason="epoch", **position):
        self.check.resync({"type": "RESYNC", "channel": self.channel, "reason": reason, **position})


@pytest.fixture(params=[LoggedCheck, PlainCheck], ids=["logged", "plain"])
def scene(request):
    scene = Scene(request.param)
    scene.begin()
    return scene


def test_a_channel_that_is_whole_breaks_nothing(scene):
    scene.events(1, 2, 3, 4)
    scene.begin(resumed=True, recovered=True)
    scene.events(5, 6)
    scene.events(7, event=END)
    assert scene.broken == [] and scene.check.ended


def test_a_hole_is_lost_silently(scene):
    scene.events(1, 2, 5)
    assert "lost silently" in scene.broken


def test_a_late_event_behind_a_resync_says_nothing_of_those_after_it(scene):
    """Its publisher gave 8 up, and published 9 by another node while this one was without Redis."""
    scene.events(1, 2)
    scene.ledger.channel(scene.channel).unknown.add(("s", 8))
    scene.resync("epoch", epoch="e2", offset=7)
    scene.events(8)
    scene.events(10, shift=-1)
    assert scene.broken == []


def test_a_hole_behind_a_resync_is_signalled(scene):
    scene.events(1, 2)
    scene.resync("epoch", epoch="e2", offset=8)
    scene.events(9, 10)
    assert scene.broken == [] and scene.ledger.resyncs["epoch"] == 1


def test_an_event_that_comes_again_is_delivered_twice(scene):
    scene.events(1, 2, 2)
    assert "delivered twice" in scene.broken


def test_events_that_change_places_are_noticed(scene):
    scene.events(1, 2, 4, 3)
    assert set(scene.broken) >= {"lost silently", "out of order"}


def test_what_was_never_acknowledged_may_be_missing(scene):
    scene.ledger.channel(scene.channel).unknown.add(("s", 2))
    scene.events(1)
    scene.events(3, shift=-1)
    assert scene.broken == []


def test_a_session_that_was_not_resumed_begins_again(scene):
    scene.events(1, 2)
    scene.begin(resumed=False, offset=6)
    scene.events(7)
    assert scene.broken == []


def test_a_session_that_is_new_and_has_no_subscription_yet_begins_again(scene):
    scene.events(1, 2)
    scene.check.welcome(None, False)
    scene.check.subscribed({"channel": scene.channel, "epoch": "e2", "offset": 0})
    scene.events(5, shift=-4)
    assert scene.broken == [] and scene.check.is_live


def test_recovered_is_believed_and_checked_on_a_plain_channel():
    scene = Scene(PlainCheck)
    scene.begin()
    scene.events(1)
    scene.begin(resumed=True, recovered=True)
    scene.events(4)
    assert scene.broken == ["recovered without proof"]
    scene.begin(resumed=True, recovered=False)
    scene.events(9)
    assert scene.broken == ["recovered without proof"]


class TestLogged:
    def test_recovered_false_is_followed_by_a_resync(self):
        scene = Scene(LoggedCheck)
        scene.begin()
        scene.events(1)
        scene.begin(resumed=True, recovered=False)
        scene.events(2)
        assert scene.broken == ["recovered: false without RESYNC"]

    def test_a_resync_of_a_long_log_is_without_a_loss(self):
        scene = Scene(LoggedCheck)
        scene.begin()
        scene.resync("gap", epoch="e1", offset=3)
        assert scene.broken == ["RESYNC without a loss"]
        scene = Scene(LoggedCheck, may_gap=True)
        scene.begin()
        scene.resync("gap", epoch="e1", offset=3)
        assert scene.broken == []

    def test_a_subscription_that_was_never_live_has_no_position_to_continue(self):
        scene = Scene(LoggedCheck)
        scene.check.welcome({"channel": "room:1", "pending": True}, False)
        scene.check.welcome({"channel": "room:1", "pending": True}, True)
        scene.check.subscribed({"channel": "room:1", "epoch": "e1", "offset": 3, "recovered": False})
        scene.resync("gap", epoch="e1", offset=3)
        scene.events(4)
        assert scene.broken == []
        scene.resync("gap", epoch="e1", offset=4)
        assert scene.broken == ["RESYNC without a loss"]

    def test_an_acknowledged_event_that_the_log_has_not_is_lost(self):
        """Offsets follow each other, and one number is missing all the same."""
        scene = Scene(LoggedCheck)
        scene.begin()
        scene.events(1, 2)
        scene.events(4, shift=-1)
        assert scene.broken == ["lost silently"]

    def test_one_position_names_one_event_for_everybody(self):
        scene = Scene(LoggedCheck)
        scene.begin()
        scene.events(1)
        scene.ledger.channel("room:1").at["e1", 2] = ("s", 7)
        scene.events(2)
        assert scene.broken == ["two histories mixed"]

    def test_the_resync_says_what_comes_next(self):
        scene = Scene(LoggedCheck)
        scene.begin()
        scene.resync("epoch", epoch="e2", offset=4)
        scene.events(7)
        assert scene.broken == ["lost silently"]

    @pytest.mark.parametrize("may_undo", [True, False])
    def test_only_a_failover_undoes_what_nobody_has_seen(self, may_undo):
        scene = Scene(LoggedCheck)
        scene.ledger.may_undo = may_undo
        scene.begin()
        scene.events(1, 2)
        scene.check.place({"epoch": "e2", "offset": 2})
        scene.events(5, shift=-2)
        assert scene.broken == ([] if may_undo else ["lost silently"])
        scene.events(8, shift=-4)
        assert scene.broken[-1:] == ["lost silently"]

    def test_who_has_seen_what_a_failover_undid_must_be_told(self):
        scene = Scene(LoggedCheck)
        scene.ledger.may_undo = True
        scene.begin()
        scene.events(1, 2, 3)
        scene.check.place({"epoch": "e2", "offset": 2})
        assert scene.broken == ["out of order"]

    def test_a_filter_hides_what_it_hides_and_no_more(self):
        scene = Scene(LoggedCheck, wanted=lambda number: number % 3 == 0)
        scene.begin()
        scene.events(3, 6)
        scene.check.place({"epoch": "e1", "offset": 8})
        scene.events(9)
        assert scene.broken == []
        scene.events(15)
        assert scene.broken == ["lost silently"]

    def test_a_position_skips_nothing_of_a_channel_without_a_filter(self):
        scene = Scene(LoggedCheck)
        scene.begin()
        scene.events(1)
        scene.check.place({"epoch": "e1", "offset": 1})
        assert scene.broken == []
        scene.check.place({"epoch": "e1", "offset": 4})
        assert scene.broken == ["lost silently"]


class TestPattern:
    def scene(self):
        scene = Scene(PatternCheck, "zone:1:*")
        scene.ledger.channel("zone:1:a").numbers["s"] = 20
        scene.check.welcome({"channel": "zone:1:*", "pattern": True}, False)
        return scene

    def test_each_channel_begins_with_a_position(self):
        scene = self.scene()
        scene.check.of("zone:1:a").place({"epoch": "e1", "offset": 4})
        scene.events(5, 6, channel="zone:1:a")
        assert scene.broken == [] and scene.check.positions() == {"zone:1:a": {"epoch": "e1", "offset": 6}}
        scene.events(5, channel="zone:1:b")
        assert scene.broken == ["contract"]

    def test_a_hole_is_lost_silently(self):
        scene = self.scene()
        scene.check.of("zone:1:a").place({"epoch": "e1", "offset": 4})
        scene.events(5, 8, channel="zone:1:a")
        assert "lost silently" in scene.broken

    def test_a_resync_of_the_pattern_excuses_no_channel_that_is_known(self):
        scene = self.scene()
        scene.check.of("zone:1:a").place({"epoch": "e1", "offset": 4})
        scene.events(5, channel="zone:1:a")
        scene.resync("broker")
        scene.events(8, channel="zone:1:a")
        assert "lost silently" in scene.broken


class TestTable:
    def scene(self):
        scene = Scene(TableCheck, "world:1")
        scene.check.welcome({"channel": "world:1"}, False)
        return scene

    def change(self, scene, key, number):
        scene.check.event({"channel": "world:1", "key": key, "data": {"p": "s", "n": number}})

    def enter(self, scene, *keys, number=1, **fields):
        entities = [{"key": key, "data": {"p": "s", "n": number}} for key in keys]
        scene.check.enter({"channel": "world:1", "complete": True, "entities": entities, **fields})

    def test_a_table_that_is_whole_breaks_nothing(self):
        scene = self.scene()
        self.enter(scene, "a", "b", reset=True)
        self.change(scene, "a", 2)
        scene.check.leave({"keys": ["b"]})
        self.enter(scene, "c")
        assert scene.broken == [] and set(scene.check.entities) == {"a", "c"} and scene.check.is_complete

    def test_what_is_not_in_the_table_neither_changes_nor_leaves(self):
        scene = self.scene()
        self.enter(scene, "a", reset=True)
        self.change(scene, "b", 2)
        scene.check.leave({"keys": ["c"]})
        assert scene.broken == ["entity table"] * 2

    def test_an_entity_does_not_go_back(self):
        scene = self.scene()
        self.enter(scene, "a", reset=True, number=5)
        self.change(scene, "a", 4)
        assert scene.broken == ["entity table"]

    def test_a_new_connection_begins_with_a_snapshot(self):
        scene = self.scene()
        self.enter(scene, "a", reset=True)
        scene.check.welcome({"channel": "world:1"}, True)
        self.enter(scene, "b")
        assert scene.broken == ["entity table"]


@pytest.mark.parametrize("topology, count", [(Standalone, 12), (Sentinels, 16), (Slots, 19)])
def test_every_kind_of_fault_is_dealt_before_any_comes_again(topology, count):
    kinds = [*OF_A_NODE, *topology.node_kinds, *topology.kinds]
    assert len(kinds) == len(set(kinds)) == count
