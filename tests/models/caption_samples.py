"""Captions of every kind, the same ones in every Python, from a seed."""

import random

WORDS = (
    "a an the of in with photo painting portrait cat dog red blue heart star "
    "castle river Lighthouse WATERCOLOR sks ohwx Greg Rutkowski artstation "
    "don't it's they'll we've I'd you're dogs' rock'n'roll 'tis e-mail A4 "
    "1girl solo masterpiece best_quality (red:1.3) [blue] {{{x}}} <lora:a:1> "
    "3.14 1,000 2024 50% $9.99 10x20 24mm f/1.8 #art @user www.example.org "
    "&amp; &lt;b&gt; &quot;q&quot; &eacute; &#39; &#x1F600; &nbsp; & &&amp; "
    "<|startoftext|> <|endoftext|> <|ENDOFTEXT|> <start_of_text> </w> <w>"
).split()
# Accents composed and decomposed, and letters whose lower case is not one
# letter, or depends on the neighbours.
LETTERS = (
    "café cafe\u0301 naïve nai\u0308ve Ångström A\u030angstro\u0308m größer "
    "GRÖSSE ẞ İstanbul I\u0307zmir ıssız ΣΊΣΥΦΟΣ ΟΔΥΣΣΕΥΣ ς ﬁne ﬀ ǅ ﾊﾟ Ω Å "
    "Việt Vie\u0323\u0302t ё е\u0308 й и\u0306 क़ ক্ষ ไทย עִברִית العربية "
    "한국어 \u1112\u1161\u11ab 日本語 カタカナ ガ カ\u3099 中文 漢字，。「」 "
    "… — “quoted” ‘x’ «y» ½ ² Ⅷ ① ٣٤ ४२ 𝒜𝓁𝓁 𝟙𝟚 ＡＢＣ ＠ № ™ ª º ſt"
).split()
SYMBOLS = (
    "🙂 😀😀 👩‍👩‍👧‍👦 👍🏽 🇰🇷 ❤️ ❤ ☂︎ ✨✨✨ ♪ → ∞ ≠ € ¥ ° ¿¡ !!! ?!?! "
    "... --- *** ___ ~^`| "
    "\\n \\u0041 \u200b \u200d \ufeff \u00ad \u0301 \u202e \ufffd \U0001f9ff"
).split()
SPACES = (" ", "  ", "\n", "\t", "\u00a0", "\u3000", "\r\n", "\x85", "\u2028")


def captions(count: int = 10_000, seed: int = 0) -> list[str]:
    """Returns captions; every 500th is very long, every 250th one word."""
    # `random` alone is promised to stay the same in every Python.
    draw = random.Random(seed).random

    def choice(items):
        return items[int(draw() * len(items))]

    def word():
        kind = draw()
        if kind < 0.5:
            return choice(WORDS)
        if kind < 0.7:
            return choice(LETTERS)
        if kind < 0.8:
            return choice(SYMBOLS)
        if kind < 0.9:
            return choice(WORDS) + choice(LETTERS) + choice(SYMBOLS)
        if kind < 0.95:
            return str(int(draw() * 10 ** int(1 + draw() * 12)))
        letters = "abcdefghijklmnopqrstuvwxyzABCXYZéß"
        return "".join(choice(letters) for _ in range(int(1 + draw() * 25)))

    made = []
    for index in range(count):
        length = 400 if index % 500 == 1 else int(draw() * 30)
        text = ""
        for _ in range(length):
            text += word()
            text += " " if draw() < 0.9 else choice(SPACES + ("",))
        if index % 250 == 2:
            text = choice(LETTERS) * 200
        made.append(text)
    return made
