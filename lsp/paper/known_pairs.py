"""Instructions with a good answer each, by which a self-judge can be tried: written for this."""

KNOWN_PAIRS = (
    (
        "What is the capital of Japan?",
        "The capital of Japan is Tokyo. It has been the seat of the government since 1868.",
    ),
    (
        "Give me three tips for falling asleep faster.",
        "1. Go to bed at the same hour every day. 2. Put screens away an hour before. 3. Keep the"
        " bedroom cool, dark and quiet.",
    ),
    (
        "Write a two-line poem about the moon.",
        "The moon looks down on town and sea,\nand lends its borrowed light to me.",
    ),
    (
        "Explain what photosynthesis is to a child.",
        "Plants make their own food. Their leaves catch sunlight and use it to turn water and air"
        " into sugar, and they give back the oxygen that we breathe.",
    ),
    (
        "Translate into French: The cat is sleeping on the chair.",
        "Le chat dort sur la chaise.",
    ),
    (
        "What should I pack for a weekend at the beach?",
        "Take a swimsuit, a towel, sunscreen, sunglasses, a hat, sandals, a change of clothes, a"
        " water bottle and a good book.",
    ),
    (
        "Why do we have leap years?",
        "The Earth takes about 365 and a quarter days to go around the Sun. Every four years the"
        " quarters add up to one day, which is added in February so that the calendar keeps pace"
        " with the seasons.",
    ),
    (
        "Suggest a name for a coffee shop run by two sisters.",
        "How about 'Two Sisters Coffee'? It is warm, easy to remember and tells the story of the"
        " owners.",
    ),
    (
        "How do I remove a red wine stain from a carpet?",
        "Blot the stain with a clean cloth, do not rub. Pour a little cold water on it and blot"
        " again. Then sprinkle baking soda or salt over it, let it dry and vacuum it up.",
    ),
    (
        "Write a polite e-mail that declines an invitation to a party.",
        "Dear Anna, thank you very much for inviting me to your party on Saturday. Unfortunately I"
        " am away that weekend and cannot come. I hope that you have a wonderful evening. Best"
        " wishes, Tom",
    ),
    (
        "List four animals that live in the desert.",
        "Four animals that live in the desert are the camel, the fennec fox, the scorpion and the"
        " rattlesnake.",
    ),
    (
        "What is the difference between a virus and a bacterium?",
        "A bacterium is a living cell that can multiply by itself, and antibiotics work against it."
        " A virus is much smaller, needs the cells of a host to multiply, and antibiotics do not"
        " help.",
    ),
    (
        "Give a short summary of the story of Romeo and Juliet.",
        "Romeo and Juliet, the children of two feuding families in Verona, fall in love and marry"
        " in secret. A failed plan makes each believe that the other is dead, both take their"
        " lives, and their families make peace.",
    ),
    (
        "How many minutes are there in a day? Show how you got there.",
        "There are 24 hours in a day and 60 minutes in an hour. 24 times 60 is 1,440, so a day has"
        " 1,440 minutes.",
    ),
    (
        "Describe what a good team leader does.",
        "A good team leader sets clear goals, listens to the members of the team, shares out the"
        " work fairly, helps when there is trouble and gives credit where it is due.",
    ),
)
"""(instruction, a good answer)."""
