"""Bars of steps."""

from chrek.cli import timeline

STEPS = {"digest": 0.5, "dump": 1.0, "sync": 0.0, "new-step": 0.25}


def test_steps_stand_in_the_order_in_which_they_are_made():
    assert list(timeline.ordered(STEPS)) == ["dump", "digest", "sync", "new-step"]


def test_bars_are_in_proportion_and_as_wide_as_asked():
    dump, digest, sync, other = timeline.bars(STEPS, width=39)
    assert dump.startswith("dump      1.000 s  ██")
    assert len(dump) == 39
    assert dump.count("█") == 2 * digest.count("█")
    assert sync == "sync      0.000 s"
    assert other.split()[3].startswith("█")


def test_bars_without_block_characters():
    dump, digest, *_ = timeline.bars(STEPS, width=39, blocks=False)
    assert dump.count("#") == 2 * digest.count("#") > 0
    assert dump.isascii()
    assert timeline.can_show_blocks("utf-8")
    assert not timeline.can_show_blocks("ascii")
    assert not timeline.can_show_blocks("no such encoding")
    assert not timeline.can_show_blocks(None)


def test_the_shortest_step_leaves_a_trace():
    assert timeline.bar(0.0001, 100, 10) == "▏"
    assert timeline.bar(0.0001, 100, 10, blocks=False) == "#"
    assert timeline.bar(0, 1, 10) == timeline.bar(1, 0, 10) == ""


def test_no_steps():
    assert timeline.bars({}, width=80) == []
    assert timeline.sentence({}) == ""
    assert timeline.total({}) == 0


def test_a_narrow_terminal_keeps_a_bar():
    assert "█" * 8 in timeline.bars(STEPS, width=10)[0]


def test_the_sentence_leaves_small_change_out():
    assert timeline.sentence(STEPS) == "dump 1.00 s, digest 0.50 s, new-step 0.25 s"
    assert timeline.sentence({"tell": 0.001}) == "tell 0.001 s"
    assert timeline.total(STEPS) == 1.75
    assert timeline.total([1, 2]) == 3
