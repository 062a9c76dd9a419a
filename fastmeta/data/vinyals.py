"""The split of Omniglot's characters that papers on learning to compare use."""

from __future__ import annotations

from fastmeta.errors import expected

__all__ = ["vinyals"]

# (alphabet, its first and its last character), in the order of the published lists.
ALPHABETS = {
    "train": (
        ("Angelic", 1, 20), ("Grantha", 1, 43), ("N_Ko", 1, 33), ("Aurek-Besh", 1, 26),
        ("Japanese_(hiragana)", 1, 52), ("Malay_(Jawi_-_Arabic)", 1, 40), ("Asomtavruli_(Georgian)", 1, 40),
        ("Sanskrit", 1, 42), ("Ojibwe_(Canadian_Aboriginal_Syllabics)", 1, 14), ("Korean", 1, 40),
        ("Arcadian", 1, 26), ("Greek", 1, 24), ("Alphabet_of_the_Magi", 1, 20),
        ("Blackfoot_(Canadian_Aboriginal_Syllabics)", 1, 14), ("Futurama", 1, 26), ("Gurmukhi", 1, 41),
        ("Tagalog", 1, 17), ("Anglo-Saxon_Futhorc", 1, 29), ("Braille", 1, 26), ("Cyrillic", 1, 33),
        ("Burmese_(Myanmar)", 1, 34), ("Avesta", 1, 26), ("Gujarati", 1, 48), ("Ge_ez", 1, 26),
        ("Syriac_(Estrangelo)", 1, 23), ("Atlantean", 1, 26), ("Japanese_(katakana)", 1, 47), ("Balinese", 1, 24),
        ("Atemayar_Qelisayer", 1, 26), ("Glagolitic", 1, 45), ("Tifinagh", 1, 55), ("Latin", 1, 26),
        ("Inuktitut_(Canadian_Aboriginal_Syllabics)", 1, 16),
    ),
    "validation": (
        ("Hebrew", 1, 22), ("Mkhedruli_(Georgian)", 1, 41), ("Armenian", 1, 41), ("Early_Aramaic", 1, 22),
        ("Bengali", 1, 46),
    ),
    "test": (
        ("Gurmukhi", 42, 45), ("Kannada", 1, 41), ("Keble", 1, 26), ("Malayalam", 1, 47), ("Manipuri", 1, 40),
        ("Mongolian", 1, 30), ("Old_Church_Slavonic_(Cyrillic)", 1, 45), ("Oriya", 1, 46), ("Syriac_(Serto)", 1, 23),
        ("Sylheti", 1, 28), ("Tengwar", 1, 25), ("Tibetan", 1, 42), ("ULOG", 1, 26),
    ),
}


def vinyals(split: str) -> list[str]:
    """The characters, as Alphabet/characterNN, of "train" (1,028), "validation" (172) or "test" (423): whole alphabets but for one.

    For `Omniglot(classes=)`, with rotations="class" as in the papers, which count each rotation as a class.

    Errors: ValueError for another split.
    Source: Vinyals et al. 2016 (matching networks), in the lists of Snell et al. 2017 (prototypical networks).

    >>> vinyals("test")[:2], len(vinyals("test"))
    (['Gurmukhi/character42', 'Gurmukhi/character43'], 423)
    """
    if split not in ALPHABETS:
        raise expected("vinyals", f"split one of {', '.join(map(repr, ALPHABETS))}", repr(split))
    return [f"{name}/character{c:02d}" for name, first, last in ALPHABETS[split] for c in range(first, last + 1)]
