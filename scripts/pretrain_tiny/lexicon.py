"""Words about icons: which names stay, how people call them, what they are.

Data only, and the two predicates that read it. Knows no pixels, no files.
Names are the icon sets' own, in lower case with hyphens.
"""

COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
)

#: Names that sets spell differently, mapped to the one used here.
ALIASES = {
    "blackbird": "black-bird",
    "face-with-crossed-out-eyes": "knocked-out-face",
    "enraged-face": "pouting-face",
    "phoenix-bird": "phoenix",
    "piata": "pinata",
    "smiling-face-with-open-hands": "hugging-face",
    "red-triangle": "red-triangle-pointed-up",
}

DROPPED_CATEGORIES = ("Flags", "Symbols", "People & Body")

#: Names kept although their category is dropped.
KEPT = frozenset(
    """
    anatomical-heart astronaut bone brain ear elf eye eyes fairy fingerprint
    footprints genie lungs mage mechanical-arm mermaid mouth ninja nose
    person-running prince princess robot santa-claus snowboarder tooth troll
    vampire zombie
    baby boy child girl man woman old-man old-woman cook farmer firefighter
    pilot police-officer detective foot leg raised-hand thumbs-up handshake
    alarm-clock prince princess fork-and-knife-with-plate
    red-circle orange-circle yellow-circle green-circle blue-circle
    purple-circle brown-circle black-circle
    red-square orange-square yellow-square green-square blue-square
    purple-square brown-square
    red-triangle-pointed-up red-triangle-pointed-down
    large-blue-diamond large-orange-diamond
    check-mark cross-mark infinity peace-symbol plus radioactive
    red-exclamation-mark red-question-mark recycling-symbol warning yin-yang
    folding-hand-fan crescent-moon full-moon moon-cake moon-viewing-ceremony
    """.split()
)

#: Names that say nothing to a reader of a prompt, or draw mostly letters.
DROPPED = frozenset(
    """
    bellhop-bell bookmark-tabs card-file-box card-index card-index-dividers
    chart-increasing-with-yen construction convenience-store cyclone
    dotted-line-face eye-in-speech-bubble fish-cake-with-swirl foggy
    heart-decoration high-voltage hundred-points japanese-post-office
    left-speech-bubble linked-paperclips love-hotel map-of-japan motorway
    mobile-phone-with-arrow on-exclamation-arrow part-alternation-mark
    airplane-arrival airplane-departure anger-symbol barber-pole bridge-at-night
    building-construction dashing-away envelope-with-arrow
    fight-cloud goal-net head-shaking-horizontally head-shaking-vertically
    hourglass-not-done identification-card inbox-tray incoming-envelope
    landslide level-slider magnifying-glass-tilted-right national-park
    outbox-tray page-facing-up page-with-curl pouring-liquid
    sun-behind-large-cloud sun-behind-small-cloud umbrella-on-ground
    globe-showing-americas globe-showing-asia-australia low-battery
    postal-horn rosette mahjong-red-dragon file-folder open-file-folder
    right-anger-bubble slightly-frowning-face splatter station
    speaker-low-volume speaker-medium-volume muted-speaker zzz
    """.split()
)

DROPPED_PARTS = frozenset(
    """
    button buttons clock flag hand hands moon oclock pointing sign
    skin thirty tone yen pound euro
    """.split()
)

MAX_WORDS = 4

#: How people call a thing, best first; the first is its name in captions.
SPOKEN = {
    "badminton": ["badminton racket"],
    "black-nib": ["nib"],
    "bowling": ["bowling ball"],
    "camping": ["campsite"],
    "chart-decreasing": ["falling chart"],
    "chart-increasing": ["rising chart"],
    "closed-book": ["book"],
    "cricket-game": ["cricket bat"],
    "dizzy": ["dizzy star"],
    "field-hockey": ["field hockey stick"],
    "flower-playing-cards": ["playing card"],
    "framed-picture": ["picture frame"],
    "headphone": ["headphones"],
    "heart-on-fire": ["burning heart"],
    "heart-suit": ["hearts suit"],
    "heart-with-arrow": ["heart with an arrow"],
    "heart-with-ribbon": ["heart with a ribbon"],
    "house-with-garden": ["house with a garden"],
    "ice-hockey": ["ice hockey stick"],
    "infinity": ["infinity sign"],
    "joker": ["joker card"],
    "lacrosse": ["lacrosse stick"],
    "locked-with-key": ["padlock with a key"],
    "locked-with-pen": ["padlock with a pen"],
    "luggage": ["suitcase"],
    "mate": ["mate cup"],
    "net-with-handle": ["net"],
    "oncoming-automobile": ["oncoming car"],
    "performing-arts": ["theater masks"],
    "ping-pong": ["ping pong paddle"],
    "radioactive": ["radioactive sign"],
    "sports-medal": ["medal"],
    "star-struck": ["star struck face"],
    "sun-behind-rain-cloud": ["sun behind a rain cloud"],
    "tennis": ["tennis ball"],
    "thread": ["spool of thread"],
    "unlocked": ["open padlock"],
    "warning": ["warning sign"],
    "wedding": ["wedding church"],
    "1st-place-medal": ["gold medal"],
    "2nd-place-medal": ["silver medal"],
    "3rd-place-medal": ["bronze medal"],
    "automobile": ["car"],
    "articulated-lorry": ["truck", "lorry"],
    "auto-rickshaw": ["rickshaw"],
    "baguette-bread": ["baguette"],
    "beverage-box": ["juice box"],
    "billed-cap": ["cap"],
    "blowfish": ["pufferfish", "blowfish"],
    "bottle-with-popping-cork": ["champagne bottle"],
    "bowl-with-spoon": ["bowl with a spoon"],
    "bullseye": ["target", "bullseye"],
    "cheese-wedge": ["cheese"],
    "chess-pawn": ["pawn", "chess pawn"],
    "cocktail-glass": ["cocktail"],
    "collision": ["explosion"],
    "cooked-rice": ["bowl of rice"],
    "cooking": ["fried egg"],
    "cup-with-straw": ["cup with a straw"],
    "cut-of-meat": ["steak"],
    "deciduous-tree": ["tree"],
    "delivery-truck": ["van", "delivery truck"],
    "desktop-computer": ["computer"],
    "doughnut": ["donut", "doughnut"],
    "ear-of-corn": ["corn", "ear of corn"],
    "e-mail": ["email"],
    "evergreen-tree": ["evergreen tree"],
    "fire-engine": ["fire truck", "fire engine"],
    "flying-saucer": ["flying saucer", "ufo"],
    "folding-hand-fan": ["fan"],
    "fork-and-knife": ["fork and knife"],
    "fork-and-knife-with-plate": ["plate", "dinner plate"],
    "front-facing-baby-chick": ["front facing chick"],
    "gem-stone": ["diamond", "gem"],
    "globe-showing-europe-africa": ["globe"],
    "high-heeled-shoe": ["high heel"],
    "hot-beverage": ["cup of coffee", "coffee"],
    "hot-pepper": ["chili pepper", "hot pepper"],
    "hourglass-done": ["hourglass"],
    "jack-o-lantern": ["halloween pumpkin", "pumpkin"],
    "honeybee": ["bee", "honeybee"],
    "kiwi-fruit": ["kiwi"],
    "lady-beetle": ["ladybug"],
    "large-blue-diamond": ["blue rhombus"],
    "large-orange-diamond": ["orange rhombus"],
    "leafy-green": ["lettuce"],
    "light-bulb": ["light bulb", "lamp"],
    "locked": ["padlock", "lock"],
    "lotion-bottle": ["bottle"],
    "mage": ["wizard"],
    "magnifying-glass-tilted-left": ["magnifying glass"],
    "mans-shoe": ["shoe"],
    "meat-on-bone": ["meat on a bone"],
    "mobile-phone": ["phone", "mobile phone"],
    "person-running": ["runner"],
    "pool-8-ball": ["billiard ball"],
    "poultry-leg": ["chicken leg"],
    "red-triangle-pointed-up": ["red triangle"],
    "red-triangle-pointed-down": ["red triangle pointing down"],
    "rescue-workers-helmet": ["helmet"],
    "roasted-sweet-potato": ["sweet potato"],
    "roll-of-paper": ["toilet paper"],
    "sauropod": ["dinosaur", "sauropod"],
    "shallow-pan-of-food": ["pan of food"],
    "speaker-high-volume": ["speaker"],
    "spiral-shell": ["shell"],
    "sport-utility-vehicle": ["jeep"],
    "steaming-bowl": ["bowl of noodles"],
    "sun-behind-cloud": ["sun behind a cloud"],
    "t-rex": ["t rex", "tyrannosaurus"],
    "teacup-without-handle": ["cup of tea"],
    "tumbler-glass": ["glass of whiskey"],
    "umbrella-with-rain-drops": ["umbrella in the rain"],
    "video-game": ["game controller", "video game"],
    "wastebasket": ["trash can", "wastebasket"],
    "womans-boot": ["boot"],
    "womans-clothes": ["blouse"],
    "womans-hat": ["sun hat"],
    "womans-sandal": ["sandal"],
    "wrapped-gift": ["gift", "present"],
}

#: Everyday words for a thing beside its own names. Each is of one thing.
ALSO = {
    "airplane": ["plane", "aeroplane"],
    "alarm-clock": ["clock"],
    "automobile": ["automobile"],
    "baby-chick": ["chick"],
    "backpack": ["rucksack", "school bag"],
    "beer-mug": ["beer"],
    "bicycle": ["bike"],
    "birthday-cake": ["cake"],
    "blossom": ["flower"],
    "bowl-with-spoon": ["bowl"],
    "bread": ["loaf of bread"],
    "bus": ["coach"],
    "candy": ["sweet"],
    "carpentry-saw": ["saw"],
    "cat": ["kitten", "kitty"],
    "christmas-tree": ["xmas tree"],
    "cookie": ["biscuit"],
    "couch-and-lamp": ["sofa", "couch"],
    "crescent-moon": ["moon"],
    "deciduous-tree": ["leafy tree"],
    "desktop-computer": ["pc"],
    "dog": ["puppy"],
    "droplet": ["drop", "water drop"],
    "envelope": ["letter", "mail"],
    "evergreen-tree": ["pine", "fir tree"],
    "fallen-leaf": ["leaf", "autumn leaf"],
    "fire": ["flame"],
    "fire-engine": ["fire brigade truck"],
    "fishing-pole": ["fishing rod"],
    "foot": ["bare foot"],
    "french-fries": ["fries", "chips"],
    "gem-stone": ["jewel"],
    "glass-of-milk": ["milk", "glass"],
    "globe-showing-europe-africa": ["earth", "world"],
    "hamburger": ["burger"],
    "handbag": ["bag"],
    "horse": ["pony"],
    "hot-beverage": ["cup", "mug"],
    "hot-dog": ["sausage in a bun"],
    "house": ["home"],
    "jeans": ["trousers", "pants"],
    "kitchen-knife": ["knife"],
    "laptop": ["notebook computer"],
    "light-bulb": ["bulb"],
    "mans-shoe": ["leather shoe"],
    "mobile-phone": ["smartphone", "cell phone"],
    "money-bag": ["sack of money"],
    "motorcycle": ["motorbike"],
    "musical-note": ["note", "music"],
    "office-building": ["skyscraper", "office"],
    "old-key": ["rusty key"],
    "open-book": ["reading book"],
    "package": ["box", "parcel"],
    "palm-tree": ["palm"],
    "paw-prints": ["paws"],
    "pizza": ["slice of pizza"],
    "police-car": ["police"],
    "potted-plant": ["plant", "houseplant"],
    "rabbit": ["bunny"],
    "raised-hand": ["hand"],
    "red-heart": ["love heart"],
    "ringed-planet": ["planet", "saturn"],
    "rocket": ["spaceship"],
    "running-shoe": ["sneaker", "trainer"],
    "sailboat": ["boat", "sailing boat"],
    "shortcake": ["piece of cake"],
    "smiling-face": ["smile", "smiley", "face"],
    "soccer-ball": ["football", "ball"],
    "soft-ice-cream": ["ice cream cone"],
    "spaghetti": ["pasta", "noodles"],
    "sports-medal": ["medal"],
    "t-shirt": ["shirt", "tee shirt"],
    "taxi": ["cab"],
    "teacup-without-handle": ["tea"],
    "television": ["tv"],
    "top-hat": ["hat"],
    "umbrella": ["parasol"],
    "vertical-traffic-light": ["traffic light"],
    "water-wave": ["wave", "sea"],
    "wine-glass": ["glass of wine", "wine"],
    "woman": ["lady"],
    "wrapped-gift": ["birthday present"],
    "wrench": ["spanner"],
}

#: Things of two words and more that text to image is taught, beside those of
#: one word.
EVERYDAY = frozenset(
    """
    alarm-clock american-football angry-face baby-bottle baby-chick bell-pepper
    beer-mug billed-cap birthday-cake boxing-glove broken-heart bullet-train
    bow-and-arrow bowl-with-spoon carpentry-saw cherry-blossom chocolate-bar
    christmas-tree clown-face cloud-with-rain cooked-rice cooking
    couch-and-lamp crescent-moon crying-face crystal-ball desert-island
    electric-plug evergreen-tree fallen-leaf ferris-wheel fire-engine
    fire-extinguisher fishing-pole floppy-disk flying-saucer
    fork-and-knife-with-plate fortune-cookie four-leaf-clover french-fries
    glass-of-milk 1st-place-medal graduation-cap high-heeled-shoe hiking-boot
    honey-pot hot-beverage hot-dog hot-pepper house-with-garden ice-cream
    ice-skate jack-o-lantern kitchen-knife light-bulb magic-wand
    magnifying-glass-tilted-left maple-leaf money-bag motor-boat mount-fuji
    musical-note office-building old-key open-book palm-tree paw-prints
    police-car polar-bear post-office potted-plant poultry-leg puzzle-piece
    racing-car raised-hand rice-ball ringed-planet roll-of-paper roller-skate
    running-shoe santa-claus shooting-star shopping-cart smiling-face
    snow-capped-mountain soccer-ball spider-web spouting-whale steaming-bowl
    sun-behind-cloud roasted-sweet-potato t-rex t-shirt
    teacup-without-handle teddy-bear tennis test-tube thumbs-up top-hat
    treasure-chest tropical-fish vertical-traffic-light video-camera
    video-game wastebasket water-wave wine-glass womans-hat
    """.split()
)

#: Of one word, and not told by their pictures.
NOT_TAUGHT = frozenset({"white-flower"})

#: Plurals that are not made with an "s".
PLURALS = {
    "child": "children",
    "fish": "fish",
    "fox": "foxes",
    "foot": "feet",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "man": "men",
    "mouse": "mice",
    "sheep": "sheep",
    "tooth": "teeth",
    "wolf": "wolves",
    "woman": "women",
}

#: Things whose name says the colour that everyone expects: "apple" will do.
EXPECTED_COLOUR = frozenset(
    """
    red-apple red-heart red-paper-lantern red-exclamation-mark
    red-question-mark white-cane brown-mushroom green-salad
    """.split()
)

#: Masses and proper names, which take no article (plurals: see captions).
UNCOUNTED = frozenset(
    """
    bacon bread broccoli butter cheese coffee corn dango dna earth falafel
    fire fog food garlic ice lettuce liquid luggage meat money oden paper
    popcorn rice sake salt santa-claus soap spaghetti sushi tea wood yarn
    skis mount-fuji tokyo-tower statue-of-liberty meat-on-a-bone ginger-root
    """.split()
)

KINDS = {
    "plant": """blossom bouquet cactus cherry-blossom coral deciduous-tree
        evergreen-tree fallen-leaf four-leaf-clover herb hibiscus hyacinth
        leaf-fluttering-in-wind leafless-tree lotus maple-leaf mushroom
        palm-tree potted-plant rose seedling shamrock sheaf-of-rice sunflower
        tulip white-flower wilted-flower brown-mushroom christmas-tree""",
    "fruit": """avocado banana blueberries cherries coconut grapes
        green-apple kiwi-fruit lemon lime mango melon olive peach pear
        pineapple red-apple strawberry tangerine tomato watermelon""",
    "vegetable": """bell-pepper broccoli carrot cucumber ear-of-corn eggplant
        garlic ginger-root hot-pepper leafy-green onion pea-pod pickle potato
        root-vegetable roasted-sweet-potato""",
    "drink": """beer-mug beverage-box bottle-with-popping-cork bubble-tea
        clinking-beer-mugs clinking-glasses cocktail-glass cup-with-straw
        glass-of-milk hot-beverage mate sake teacup-without-handle
        tropical-drink tumbler-glass wine-glass""",
    "vehicle": """airplane ambulance
        articulated-lorry auto-rickshaw automobile bicycle bullet-train bus
        canoe delivery-truck ferry fire-engine flying-saucer helicopter
        high-speed-train kick-scooter light-rail locomotive metro minibus
        monorail motor-boat motor-scooter motorcycle mountain-railway
        oncoming-automobile oncoming-bus oncoming-police-car oncoming-taxi
        passenger-ship pickup-truck police-car racing-car railway-car rocket
        sailboat satellite ship small-airplane speedboat
        sport-utility-vehicle suspension-railway taxi tractor train tram
        tram-car trolleybus sled""",
    "building": """bank castle church circus-tent classical-building
        department-store derelict-house factory hindu-temple hospital hotel
        house house-with-garden houses hut japanese-castle kaaba lighthouse
        mosque office-building post-office school shinto-shrine stadium
        synagogue tent tokyo-tower wedding""",
    "weather": """cloud cloud-with-lightning cloud-with-rain
        cloud-with-snow droplet fog rainbow snowflake sun sun-behind-cloud
        sun-behind-rain-cloud tornado umbrella-with-rain-drops
        wind-face""",
    "clothing": """ballet-shoes bikini billed-cap briefs coat dress
        flat-shoe glasses gloves goggles graduation-cap high-heeled-shoe
        hiking-boot jeans kimono lab-coat mans-shoe necktie
        one-piece-swimsuit running-shirt running-shoe safety-vest sari scarf
        shorts socks sunglasses t-shirt thong-sandal top-hat womans-boot
        womans-clothes womans-hat womans-sandal martial-arts-uniform""",
    "instrument": """accordion banjo drum flute guitar harp long-drum
        maracas musical-keyboard saxophone trombone trumpet
        violin""",
    "tool": """axe bucket carpentry-saw clamp hammer hook ladder
        magnet nut-and-bolt pick plunger screwdriver scissors shovel
        toolbox wrench broom""",
    "toy": """balloon bowling game-die joystick kite nesting-dolls pinata
        puzzle-piece teddy-bear yo-yo water-pistol""",
    "ball": """american-football baseball basketball rugby-football
        soccer-ball softball tennis volleyball""",
}

#: Word for everything else of a category; None says nothing useful.
CATEGORY_KINDS = {
    "Animals & Nature": "animal",
    "Food & Drink": "food",
    "Objects": "object",
    "Travel & Places": None,
    "Activities": None,
    "Smileys & Emotion": None,
    "People & Body": None,
    "Symbols": None,
}

NOT_ANIMALS = frozenset(
    "empty-nest feather paw-prints pig-nose spider-web spiral-shell "
    "wing nest-with-eggs microbe".split()
)

NOT_FOOD = frozenset(
    "amphora baby-bottle chopsticks fork-and-knife kitchen-knife spoon jar "
    "fork-and-knife-with-plate teapot".split()
)

#: Things one sees the white background through: it is not their colour.
SEE_THROUGH = frozenset(
    """
    abacus auto-rickshaw badminton balance-scale basket bicycle bow-and-arrow
    broken-chain chains crutch dna ferris-wheel globe-with-meridians goggles
    harp kiss-mark knot lacrosse ladder link magic-wand manual-wheelchair
    net-with-handle old-key paperclip parachute prayer-beads pretzel
    rescue-workers-helmet ring ring-buoy safety-pin scissors sewing-needle
    shopping-cart sled speaker-high-volume spider-web tennis wastebasket
    wheel
    """.split()
)

_KIND_OF = {name: kind for kind, s in KINDS.items() for name in s.split()}


def kept(name: str, category: str) -> bool:
    """Whether an icon stays in the training set, by name and category.

    Args:
        name: String, the icon's name after `ALIASES`.
        category: String, the set's category.

    Returns:
        Boolean.
    """
    parts = name.split("-")
    if name in KEPT:
        return True
    if category in DROPPED_CATEGORIES or name in DROPPED:
        return False
    return len(parts) <= MAX_WORDS and DROPPED_PARTS.isdisjoint(parts)


def kind(name: str, category: str) -> "str | None":
    """The plain word for what a thing is ("animal"), or None.

    Args:
        name: String, the icon's name.
        category: String, the set's category.

    Returns:
        String or None where no word helps.
    """
    if name in NOT_ANIMALS or name in NOT_FOOD:
        return None
    if name.endswith(("-face", "-heart", "heart-")):
        return "face" if name.endswith("face") else None
    return _KIND_OF.get(name) or CATEGORY_KINDS.get(category)


def spoken(name: str) -> list:
    """Ways of saying a name, best first, in plain words.

    Args:
        name: String, the icon's name.

    Returns:
        Non-empty list of strings without hyphens.
    """
    ways = SPOKEN.get(name) or [name.replace("-", " ")]
    return ways + [way for way in ALSO.get(name, ()) if way not in ways]


def plural(noun: str) -> str:
    """Returns the plural of a noun of one word."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
