"""The least recently used artifacts go, and none that is in use."""

import os
import threading

import pytest

from chrek import errors, manifest, names
from chrek.remote import backend, cache
from fakes import node as nodes

SIZE = 1 << 20


def keep(made, uuid, used, namespace="", size=SIZE):
    """An artifact in the cache, last used then."""
    stage = made.store(namespace).stage(nodes.HASH, nodes.VARIANT, uuid)
    nodes.fill(stage, {"criu/pages-1.img": os.urandom(size)})
    made.store(namespace).commit(stage, nodes.described(stage))
    os.utime(stage.path / manifest.NAME, (used, used))
    return backend.Key(namespace, nodes.HASH, nodes.VARIANT, uuid)


def there(made):
    return [one.key for one in made.kept()]


def test_what_is_kept_is_listed_by_use(tmp_path):
    made = cache.Cache(tmp_path / "cache", 1 << 40)
    assert made.kept() == []
    new, old = keep(made, "a", 2000), keep(made, "b", 1000, namespace="team")
    made.store("").stage(nodes.HASH, nodes.VARIANT)
    assert there(made) == [old, new]
    made.touch(old)
    assert there(made) == [new, old]
    assert made.kept()[0].bytes >= SIZE
    made.drop(new)
    made.drop(new)
    assert there(made) == [old]


def test_room_is_made_by_the_least_recently_used(tmp_path):
    made = cache.Cache(tmp_path / "cache", 4 * SIZE + SIZE // 4)
    first, second, third = (keep(made, name, at) for at, name in enumerate("abc", 1))
    made.make_room(SIZE // 2)
    assert there(made) == [first, second, third]
    with made.using(first):
        made.make_room(2 * SIZE)
        assert there(made) == [first, third]
    made.make_room(4 * SIZE)
    assert there(made) == []


def test_a_disk_without_room_is_an_error(tmp_path):
    made = cache.Cache(tmp_path / "cache", 1 << 60)
    with pytest.raises(errors.StoreError, match="GB free") as failed:
        made.make_room(1 << 59)
    assert failed.value.reason == names.Reason.NOT_ENOUGH_SPACE


def test_one_at_a_time(tmp_path):
    made = cache.Cache(tmp_path / "cache", SIZE)
    key = backend.Key("", nodes.HASH, nodes.VARIANT, "a")
    inside, most = [], []

    def work():
        with made.using(key), made.alone(key):
            inside.append(True)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert not made.used(key)


def test_what_was_made_by_somebody_else_is_left(tmp_path):
    made = cache.Cache(tmp_path / "cache", 0)
    keep(made, "a", 1)
    (tmp_path / "cache/lost+found").mkdir()
    (tmp_path / "cache/file").write_text("x")
    made.make_room(0)
    assert sorted(one.name for one in (tmp_path / "cache").iterdir()) == ["file", "lost+found"]
