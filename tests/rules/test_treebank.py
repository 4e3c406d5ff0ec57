"""A caption's tokens: what the official tokenizer made of these, and of captions made of any signs at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llavakit.core.errors import ConfigError
from llavakit.eval.tasks.descriptions import BENCHMARKS
from llavakit.rules import stanford
from llavakit.rules.treebank import DROPPED, tokenize
from tests.eval.tasks.java import put_java
from tests.eval.tasks.test_table import folders, oracle, score  # noqa: F401  the fixture is used by its name

# Stanford CoreNLP 3.4.1 was asked each of these, with COCO's list of punctuation.
ASKED = {
    "cat's dogs' isn't ISN'T can't cannot": "cat 's dogs is n't is n't ca n't can not",
    "it’s isn’t don‘t I'd've who'd he'll've": "it 's is n't do n`t i 'd 've who 'd he 'll 've",
    "mightn't've shouldnt've dosen't don'ts": "might n't 've shouldnt 've dose n't do n'ts",
    "o'clock O'Brien's d'oh L'Oreal o'er ma'am c'mon": "o'clock o'brien 's d'oh l'oreal o'er ma'am c'mon",
    "y'all y'know 'tis 'twas 'em 'cause goin'": "y' all y' know 't is 't was 'em 'cause goin",
    "the '90s, 80's, 90s' '5": "the '90s 80 's 90s 5",
    "rock'n'roll cats 'n' dogs 'n more": "rock 'n' roll cats 'n' dogs 'n more",
    "t-shirt mother-in-law 3-year-old 7-11 10-12": "t-shirt mother-in-law 3-year-old 7-11 10-12",
    "1,000-foot U.S.-based p.m.-ish a-b- -a": "1,000-foot u.s.-based p.m.-ish a-b a",
    "red/blue a/b/c/d 1/2-inch 12/25/2012 w/ w/o": "red/blue a/b/c / d 1/2-inch 12/25/2012 w / w/o",
    "10:30 1,000.5 .5 -5 5+5 5.a": "10:30 1,000.5 .5 -5 5 +5 5 a",
    "50% $5 US$5 £5 5¢ 2½ ½-inch 70°": "50 % $ 5 us$ 5 # 5 5 cents 2 1/2 1/2 inch 70 °",
    "AT&T at&t B&B's R&Ds A+B C++ C#": "at&t at & t b&b 's r&d s a+b c++ c#",
    "#1 #hashtag @home @ foo@bar.com": "# 1 #hashtag @home @ foo@bar.com",
    "http://www.example.com/a. see www.a.com, a.jpg": "http://www.example.com/a see www.a.com a.jpg",
    "U.S. a.m. Ph.D. J.R. Smith plan b. a.5": "u.s. a.m. ph.d. j.r. smith plan b. a. 5",
    "Mr. Dr. St. Ave. Inc. vs. etc., Jan. Sat.": "mr. dr. st. ave. inc. vs. etc. jan. sat",
    "No. 5 no. Mass. mass. in. lbs.": "no. 5 no mass. mass in lbs",
    "1st 2nd 3D 4x4 20th 1980s 7pm 7:00pm mp3 R2D2": "1st 2nd 3d 4x4 20th 1980s 7pm 7:00 pm mp3 r2d2",
    "(a) [b] {c} (555)123-4567 () boy(s)":
        "-lrb- a -rrb- -lsb- b -rsb- -lcb- c -rcb- -lrb-555-rrb-123-4567 -lrb- -rrb- boy -lrb- s -rrb-",
    ":) :-( ;) :D =) :Dog 3:(": ":-rrb- :--lrb- ;-rrb- :d =-rrb- dog 3 :-lrb-",
    "hi! what?? wow!!! really?! a?b a!b end.Next": "hi what ?? wow !!! really ?! a?b a!b end.next",
    "“a” ‘b’ «c» 'd' \"e\" `f` … -- — – ... .. ; :": "a b c 'd e f",
    "<b> </b> <3 a<b * ** under_score _x__ = \\ / ^ ~ | ♥":
        "<b> </b> < 3 a < b * ** under_score _ x __ = \\ / ^ ~ | ♥",
    "café naïve-x 日本 a😀b 😀": "café naïve-x 日本 a b",
    "": "", " \n ": "",
}  # fmt: skip


@pytest.mark.parametrize("caption", ASKED)
def test_tokens_are_those_of_the_official_tokenizer(caption):
    assert tokenize(caption) == ASKED[caption]


@given(st.text("aB1 .,'’!?-/()$%&:;“\n\t½é日😀_n't", max_size=40))
def test_any_signs_have_tokens_without_punctuation(caption):
    tokens = tokenize(caption).split(" ")
    assert not DROPPED & set(tokens) and tokenize(" " + caption + "\n") == " ".join(tokens)


@pytest.fixture
def java(tmp_path, monkeypatch):
    return put_java(tmp_path, monkeypatch)


def test_captions_go_through_java_where_that_is_asked_for(java, folders):  # noqa: F811
    assert stanford.tokenize_all(["A\ncat.", "", "é"]) == ["a cat", "", "é"]
    found = score(folders, "coco-captions", "stanford", oracle)
    assert found.rules == "stanford" and found.figures["CIDEr-D"] > 500


def test_java_that_is_missing_or_fails_is_one_line(java, monkeypatch):
    java.write_text("#!/bin/sh\necho no memory >&2; exit 1\n")
    with pytest.raises(ConfigError, match="tokenizer of captions failed: no memory"):
        stanford.tokenize_all(["a"])
    monkeypatch.setenv(stanford.SETTING, str(java.parent / "gone.jar"))
    with pytest.raises(ConfigError, match=r"no stanford-corenlp-3\.4\.1\.jar: pip install pycocoevalcap"):
        stanford.tokenize_all(["a"])
    monkeypatch.setenv("PATH", str(java.parent.parent))
    with pytest.raises(ConfigError, match="needs `java` on the PATH"):
        stanford.tokenize_all(["a"])


def test_words_as_they_stand_are_a_rule_set_of_their_own():
    assert list(BENCHMARKS["coco-captions"].rules) == ["official", "stanford", "vlmevalkit"]
