"""What a person asks where only the answer is written: one of several ways to say it, drawn for every row.

Their numbers are those of LLaVA's lists (11 brief ones, 16 detailed ones); the words are our own.
"""

BRIEF = (
    "Describe the image in a few words.",
    "Give a short description of this picture.",
    "What does this image show, in brief?",
    "Sum up what can be seen here.",
    "Write a short caption for this picture.",
    "Tell me in one sentence what this is a picture of.",
    "Say concisely what the image contains.",
    "Give a brief account of this image.",
    "What is this a picture of?",
    "Put the content of the image into a sentence.",
    "Summarise the picture shortly.",
)
DETAILED = (
    "Describe the image in detail.",
    "What can be seen in this picture? Leave nothing out.",
    "Give a full description of this image.",
    "Tell me everything that this picture shows.",
    "Write a detailed account of what is in the image.",
    "Walk me through this picture.",
    "Describe the scene with all its details.",
    "What is going on in this image? Please be thorough.",
    "Please explain at length what you see here.",
    "Describe this picture to somebody who cannot see it.",
    "What are the elements of this image, and how are they arranged?",
    "Give an exhaustive description of the photo.",
    "Look at the image closely and report what is there.",
    "Offer a complete description of the contents of this picture.",
    "Characterise the image with as many particulars as you can.",
    "Can you describe the main features of this image, and the small ones too?",
)
RECAP = "Please generate detailed descriptions of the given image."  # LLaVA-ReCap's, as published
READ = (
    "What is written here?",
    "Read out all the text in this picture.",
    "Copy the text of this document.",
    "Which words can be read in the image?",
)
COMPARE = (
    "What are the differences between these pictures?",
    "Compare the pictures.",
    "In what do these pictures differ, and what do they share?",
    "Tell me how the pictures differ.",
)
SHORT = "Answer the question using a single word or phrase."  # LLaVA-1.5's, as published
LETTER = "Answer with the option's letter from the given choices directly."
CONCISE_BELOW = 30  # words of a caption: LLaVA-Med asks for a description in brief, else in detail
