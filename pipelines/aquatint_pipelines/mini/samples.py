"""What the mini checkpoint is asked to generate for people (the sample sheet) and for tests (the golden images)."""

SHEET_PROMPTS = (
    "a flat emoji of a fox on a blue background",
    "a noto emoji of a fox on a blue background",
    "a flat emoji of a penguin on a pink background",
    "a noto emoji of a strawberry on a yellow background",
    "a flat emoji of a rocket on a black background",
    "a noto emoji of a hamburger on a green background",
    "a flat emoji of a cactus on an orange background",
    "a noto emoji of an octopus on a white background",
    "a flat emoji of a house on a purple background",
    "a noto emoji of a tulip on a gray background",
    "a flat emoji of a pizza on a red background",
    "a noto emoji of a panda on a green background",
    "red apple",
    "a car on a blue background",
    "draw a dog in noto style on a pink background",
    "Lemon, flat style, purple background",
)
GOLDEN_PROMPTS = SHEET_PROMPTS[:4]
