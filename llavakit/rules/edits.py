"""The edit distance of two texts, by `rapidfuzz`, which comes with the extra `eval`."""

from llavakit.core.errors import ConfigError


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and substitutions that make one of the other (Levenshtein)."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise ConfigError("this score needs rapidfuzz: pip install 'llavakit[eval]'") from None
    return Levenshtein.distance(one, other)
