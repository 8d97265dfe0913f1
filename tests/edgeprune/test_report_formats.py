import pytest

from edgeprune.report import formats


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (formats.count(11_173_962), "11 173 962"),
        (formats.percent(0.9314), "93.1 %"),
        (formats.points(-0.005), "−0.5 points"),
        (formats.points(-0.0001), "0.0 points"),
        (formats.quantity(999_600), "1.00 M"),
        (formats.size(44_700_000), "44.7 MB"),
        (formats.milliseconds(0.01234), "0.0123 ms"),
        (formats.milliseconds(1234.6), "1 235 ms"),
        (formats.power(3.14e-7), "3.1 × 10⁻⁷"),
        (formats.power(1e-4), "10⁻⁴"),
        (formats.power(0.0), "0"),
        (formats.small(0.0123456), "0.0123"),
        (formats.small(2.5e-6), "2.5 × 10⁻⁶"),
        (formats.times(1.04), "1.04×"),
        (formats.count(None), "not measured"),
    ],
)
def test_numbers_are_written_with_sensible_digits(written: str, wanted: str) -> None:
    assert written.replace(formats.THIN, " ") == wanted
