from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from quantkit.data.selection import balanced_quotas, queues_by_class

AVAILABLE = st.dictionaries(st.integers(0, 30), st.integers(0, 20), min_size=1, max_size=12)


@given(available=AVAILABLE, count=st.integers(1, 200), seed=st.integers(0, 5))
def test_class_quotas_are_as_equal_as_data_allows(available: dict[int, int], count: int, seed: int) -> None:
    quotas = balanced_quotas(available, count, seed)
    assert sum(quotas.values()) == min(count, sum(available.values()))
    assert all(0 <= quotas[label] <= available[label] for label in available)
    largest = max(quotas.values())
    assert all(quotas[label] >= largest - 1 or quotas[label] == available[label] for label in available)


@given(available=AVAILABLE, count=st.integers(1, 100), label=st.integers(0, 11))
def test_class_quotas_lost_image_takes_no_place_from_others(available: dict[int, int], count: int, label: int) -> None:
    before = balanced_quotas(available, count, 0)
    label = sorted(available)[label % len(available)]
    after = balanced_quotas({**available, label: max(available[label] - 1, 0)}, count, 0)
    assert all(after[other] >= before[other] for other in available if other != label)


def test_class_quotas_equal_hand_worked_examples() -> None:
    """Ten of classes with 1, 3 and 20: level 3 gives 1 + 3 + 3, the rest goes to the one class that has more."""
    assert balanced_quotas({0: 1, 1: 3, 2: 20}, 7, 0) == {0: 1, 1: 3, 2: 3}
    assert balanced_quotas({0: 1, 1: 3, 2: 20}, 8, 0) == {0: 1, 1: 3, 2: 4}


def test_class_quotas_fewer_than_classes_draw_classes_by_seed() -> None:
    drawn = [
        frozenset(k for k, n in balanced_quotas(dict.fromkeys(range(100), 5), 10, s).items() if n) for s in range(5)
    ]
    assert all(len(classes) == 10 for classes in drawn)
    assert len(set(drawn)) == 5


@given(seed=st.integers(), order=st.permutations(range(12)))
def test_class_queues_do_not_depend_on_order_of_images(seed: int, order: list[int]) -> None:
    names, labels = [f"{i}.jpg" for i in range(12)], [i % 3 for i in range(12)]
    straight = queues_by_class(names, labels, seed)
    mixed = queues_by_class([names[i] for i in order], [labels[i] for i in order], seed)
    assert straight == {label: [order[position] for position in queue] for label, queue in mixed.items()}


def test_class_queues_do_not_depend_on_folders_or_other_images() -> None:
    flat = queues_by_class(["a.jpg", "b.jpg", "c.jpg"], [5, 5, 5], 0)[5]
    foldered = queues_by_class(["x/a.jpg", "x/b.jpg", "x/c.jpg", "y/d.jpg"], [5, 5, 5, 6], 0)[5]
    assert flat == foldered


def test_class_queues_every_image_is_as_likely_to_be_first() -> None:
    names = [f"{i}.jpg" for i in range(4)]
    first = Counter(queues_by_class(names, [0] * 4, seed)[0][0] for seed in range(400))
    assert all(70 < first[position] < 130 for position in range(4))
