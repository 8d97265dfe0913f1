import edgeprune

PUBLIC = [
    "Analysis",
    "Budget",
    "Captured",
    "ChannelGroup",
    "CutProof",
    "EdgepruneError",
    "Plan",
    "Scores",
    "analyse",
    "attribute",
    "capture",
    "channel_groups",
    "cut",
    "export",
    "load",
    "make_plan",
    "to_module",
    "verify_cut",
]


def test_the_public_names_are_these() -> None:
    assert sorted(edgeprune.__all__) == PUBLIC


def test_every_public_name_exists_and_is_documented() -> None:
    for name in edgeprune.__all__:
        assert getattr(edgeprune, name).__doc__, name
