import torch

from ae.seeding import derive, generator


def test_seeds_are_fixed_for_ever() -> None:
    """Another value here would be another order of the images in everybody's runs."""
    assert derive("order", 0, 0) == 4876581156571347824
    assert derive("noise", 3) == 5069319160893184368


def test_keys_that_could_run_together_do_not() -> None:
    keys = [("a", 1, 11), ("a", 11, 1), ("a", 111), ("a1", 11), ("a", "1", 11), ("a", 1, "11")]
    assert len({derive(*key) for key in keys}) == len(keys)
    assert all(0 <= derive(*key) < 2**63 for key in keys)


def test_a_generator_depends_on_its_key_alone() -> None:
    first = torch.rand(3, generator=generator("a", 1))
    torch.rand(7)
    assert torch.equal(torch.rand(3, generator=generator("a", 1)), first)
    assert not torch.equal(torch.rand(3, generator=generator("a", 2)), first)
