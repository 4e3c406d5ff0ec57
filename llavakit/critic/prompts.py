"""What judges are asked: the prompts of LLaVA-Critic-113k and its seven benchmarks, in our own words.

The question stands before the answers, so that both orders of two answers share the picture and the question.
"""

from collections.abc import Sequence
from string import ascii_uppercase

QUESTION = "[Question]\n{question}\n[End of question]\n\n"
CONTEXT = "[What is in the image]\n{context}\n[End of what is in the image]\n\n"
REFERENCE = "[Reference answer]\n{reference}\n[End of reference answer]\n\n"
ANSWER = "[Answer]\n{first}\n[End of answer]\n\n"

BETTER = (
    "You compare two responses to a question about an image. Judge how well each fits what the image "
    "shows, whether it answers the question, and how clear and complete it is. Neither order nor "
    "length of the responses counts.\n\n"
    + QUESTION
    + "[Response {one}]\n{first}\n[End of response {one}]\n\n[Response {two}]\n{second}\n"
    "[End of response {two}]\n\n"
    "Give your reasons first. Then end with one line of its own: The better response: [{one}], or The"
    " better response: [{two}], or The better response: [equally good].\nASSISTANT:\n"
)
LETTERS = (
    "Act as a fair judge of two assistants' answers to a question about an image. Weigh how helpful, "
    "relevant, accurate and deep they are; neither place, length nor name counts. Compare them in a "
    "few sentences.\n\n[User question]\n{question}\n\n[Answer of assistant A]\n{first}\n[End of answer A]\n\n"
    "[Answer of assistant B]\n{second}\n[End of answer B]\n\n"
    "Then give your verdict: [[A]] if assistant A is better, [[B]] if assistant B is better."
)
OVERALL = (
    "Which of two answers to a question about the image is better?\n\nQuestion: {question}\n\n"
    "Answer 1: {first}\n\nAnswer 2: {second}\n\n"
    "Go through accuracy, completeness, clarity and relevance of both. Then write: Overall Judgment: "
    "Answer 1 is better, or: Overall Judgment: Answer 2 is better."
)
BOXED = (
    "Which of two responses to a question about the image is better?\n\n[Question]\n{question}\n\n"
    "[Response 1]\n{first}\n\n[Response 2]\n{second}\n\n"
    "Think between <think> and </think>. Then give the number of the better response as \\boxed{{1}} "
    "or \\boxed{{2}}."
)

RANKING = (
    "Rank the answers of several assistants to a user's instruction about an image, from best to worst. Weigh how "
    "well each follows the instruction, and how relevant, accurate, complete, creative and detailed it is; neither "
    "length, name nor place counts.\n\n[User instruction]\n{question}\n[End of user instruction]\n\n{answers}"
    "Analyse the answers first. Then end with your ranking, the best first, as in: [[C]], [[A]], [[B]]"
)


def listed(answers: Sequence[str]) -> str:
    """Answers behind each other, with their letters."""
    named = zip(ascii_uppercase, answers, strict=False)
    return "".join(
        f"[Answer of assistant {letter}]\n{text}\n[End of answer {letter}]\n\n" for letter, text in named
    )


def arena(first: str, second: str) -> str:
    """WildVision's comparison; the arguments are slots."""
    return (
        "Compare the answers of two assistants to a user's question about an image. First think of your own "
        "answer. Then name the mistakes of both, and say how helpful, to the point and complete each is.\n\n"
        f"<|User|>\n{{question}}\n\n<|Answer of assistant A|>\n{first}\n<|End of answer A|>\n\n"
        f"<|Answer of assistant B|>\n{second}\n<|End of answer B|>\n\n"
        "End with your verdict: [[A>>B]] if A is much better, [[A>B]] if A is a little better, [[A=B]] if "
        "they are about equal, [[B>A]] if B is a little better, [[B>>A]] if B is much better."
    )


def two_scores(first: str, second: str, *, context: bool = False, ten: bool = False) -> str:
    """LLaVA-Bench's comparison; with `ten` Wilder's, where assistant 1 gives the reference."""
    return (
        (CONTEXT if context else "")
        + f"[Question]\n{{question}}\n\n[Assistant 1]\n{first}\n\n[End of assistant 1]\n\n"
        + f"[Assistant 2]\n{second}\n\n[End of assistant 2]\n\n[System]\n"
        + ("Assistant 1 is right and always has 10. " if ten else "")
        + "Rate helpfulness, relevance, accuracy and detail of both assistants' answers to the question. Each "
        "gets a score from 1 to 10, more is better. The first line must hold two numbers only, the scores of "
        "assistant 1 and assistant 2, with a blank between them. Explain them in the lines after it; the "
        "order of the answers must not count."
    )


SCORE = (
    "You judge a response to a question about an image: does it fit what the image shows, does it "
    "answer the question, is it clear and complete?\n\n"
    + QUESTION
    + ANSWER
    + "Give a score from 0 to 100, more is better, and your reasons. Begin with a line: Score: your "
    "number\nASSISTANT:\n"
)
CAPTION = (
    "How good is a description of an image? Compare it with the image and with the reference: what it"
    " says must be there, and what matters must be said.\n\n"
    + QUESTION
    + REFERENCE
    + ANSWER
    + "Give your reasons. Then end with a line: Final Score: a number from 0 to 100\nASSISTANT:\n"
)
MMHAL = (
    "Does an answer about an image say things that are not there? You do not see the image: you are "
    "told what is in it, and how a person answered, who may have left out what is true. An answer "
    "that only reasons from what is there, or that says it cannot know, says nothing that is not "
    "there.\n\n" + CONTEXT + QUESTION + REFERENCE + ANSWER + "Explain first. Then choose one:\n"
    "Rating: 6, nothing invented, very informative, with good analysis\n"
    "Rating: 5, nothing invented, very informative\nRating: 4, nothing invented, somewhat informative\n"
    "Rating: 3, nothing invented, not informative\nRating: 2, something invented, very informative\n"
    "Rating: 1, something invented, somewhat informative\n"
    "Rating: 0, something invented, not informative"
)
MMVET = (
    "How right is an answer, from 0.0 (wrong) over 0.1, 0.2 and so on to 1.0 (right)? <AND> in the "
    "truth joins things that must all be said, <OR> things of which one is enough.\n\n"
    "Question: What is x? Truth: 3 <AND> 5. Answer: x is 3. Score: 0.5\n"
    "Question: Which colour? Truth: red <OR> scarlet. Answer: It is scarlet. Score: 1.0\n"
    "Question: Which colour? Truth: red <OR> scarlet. Answer: It is blue. Score: 0.0\n"
    "Question: {question} Truth: {reference}. Answer: {first}. Score:"
)
REFOMB = (
    "How far can one trust an answer about an image? The image and a description of it are given.\n\n"
    + CONTEXT
    + QUESTION
    + ANSWER
    + "Name what it says that is not there. Then choose one:\nRating: 3, all of it is true\n"
    "Rating: 2, a detail is not\nRating: 1, something that matters is not\nRating: 0, most of it is not"
)
VIBE = (
    "[Question]\n{question}\n\n[Response of the assistant]\n{first}\n\n[True response]\n{reference}\n\n"
    "[System]\n"
    "How well does the assistant's response match the true one, looking at the image? 1 is wrong, 5 "
    "is right. Answer as:\nExplanation: your reasons\nRating: a whole number from 1 to 5"
)
