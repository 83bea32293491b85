import gc

import pytest

from keras_sdft import collector


class Node:
    """What the collector goes over."""


@pytest.fixture(autouse=True)
def is_on():
    gc.enable()
    yield
    gc.enable()


def in_oldest(thing):
    return any(found is thing for found in gc.get_objects(generation=2))


def test_it_is_off_inside_and_as_before_after():
    with collector.paused():
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    with collector.paused():
        pass
    assert not gc.isenabled()


def test_it_is_on_again_after_an_error():
    with pytest.raises(KeyError), collector.paused():
        raise KeyError
    assert gc.isenabled()


def test_many_new_objects_are_old_at_once():
    gc.collect()
    with collector.paused():
        made = [Node() for _ in range(40_000)]
        assert not in_oldest(made)
    assert in_oldest(made)


def test_few_new_objects_stay_young():
    gc.collect()
    with collector.paused():
        made = [Node()]
    assert not in_oldest(made)


def test_what_somebody_froze_stays_frozen():
    gc.freeze()
    try:
        with collector.paused():
            made = [Node() for _ in range(40_000)]
        assert gc.get_freeze_count() > 0
        assert not in_oldest(made)
    finally:
        gc.unfreeze()
