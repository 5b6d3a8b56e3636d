"""What streams leave on a rank."""


def free_pages(rank):
    return [(room.pool.free, room.pool.unpromised, room.pool.pages) for room in rank._rooms._rooms.values()]


def assert_nothing_stays(rank):
    assert free_pages(rank)
    for free, unpromised, pages in free_pages(rank):
        assert free == unpromised == pages
