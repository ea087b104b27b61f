"""A bounded memory of what was used last."""

from token_server.core.recently_used import RecentlyUsed


def test_least_recently_used_value_goes_first() -> None:
    """Looking at a value keeps it; the bound holds whatever comes."""
    memory = RecentlyUsed[str, int](2)
    memory.remember("a", 1)
    memory.remember("b", 2)
    assert memory.find("a") == 1
    memory.remember("c", 3)

    assert (memory.find("a"), memory.find("b"), memory.find("c")) == (1, None, 3)
    for number in range(100):
        memory.remember(str(number), number)
    assert len(memory) == 2


def test_newer_value_takes_the_place_of_the_older() -> None:
    """One key has one value, and is as fresh as its last change."""
    memory = RecentlyUsed[str, int](2)
    memory.remember("a", 1)
    memory.remember("b", 2)
    memory.remember("a", 3)
    memory.remember("c", 4)

    assert (memory.find("a"), memory.find("b"), memory.find("c")) == (3, None, 4)
