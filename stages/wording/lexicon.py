"""The closed word lists behind the rules. Lower case; no code beyond building the sets."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


ARTICLES = word_set("a an")

DETERMINERS = word_set("a an the this that these those its his her their my your our one's")

QUANTIFIERS = word_set(
    "all both each every either neither several many few some any most more fewer other others "
    "another no dozens hundreds multiple various numerous half none such"
)
"""Words before a noun that leave open how many, or which one, is meant."""

NEGATIONS = word_set(
    "no not without never neither nor isn't aren't wasn't weren't lacks lacking nobody nothing"
)

PREPOSITIONS = word_set(
    "about above across after against along alongside amid among around as at atop before "
    "behind below beneath beside between beyond by down during for from in inside into like "
    "near of off on onto opposite out outside over past round through throughout to toward "
    "towards under underneath until up upon via with within without"
)

CONJUNCTIONS = word_set(
    "and or but nor while as because when where whereas although though if & plus"
)

RELATIVES = word_set("that which who whose")

PRONOUNS = word_set(
    "it they he she this that these those both all one ones i you we them him there what which who"
)

COPULAS = word_set(
    "is are was were looks look appears appear seems seem isn't aren't wasn't weren't"
)

AUXILIARIES = COPULAS | word_set(
    "be been being am has have had do does did can could may might must will would shall should"
)

_VERBS = word_set(
    "appear balance bend block board border bring carry catch chase climb contain cover crawl "
    "cross cut dance dive drink drive eat extend face fall fill float fly follow gallop graze "
    "grow hang have hide hold jump kick kneel lead lean leap lick lie line look lounge move "
    "open overlook perch play point pose pour pull push reach read rest ride rise roll run seem "
    "serve shine show sit skate sleep smile splash spread stand stare stay stretch surf "
    "surround swim swing take talk throw touch turn use wait walk watch wear wave work"
)
"""Verbs that image descriptions use, to tell "the pier leads" from "the car lights"."""


def _third_person(verb: str) -> str:
    if verb == "have":
        return "has"
    if verb[-1] == "y" and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s")


BASE_OF_VERB = {_third_person(verb): verb for verb in _VERBS} | {
    "is": "are",
    "was": "were",
    "isn't": "aren't",
    "wasn't": "weren't",
}
"""Third person singular to plural: "leads" to "lead", "is" to "are"."""

VERBS = _VERBS | BASE_OF_VERB.keys()

_PAST = word_set(
    "ate bent broke came caught cut drank drove fell flew gave got grew held hung kept laid lay "
    "led left made met ran rode rose sat set shown slept spread stood stuck swam taken threw "
    "took wore"
)

_POSTPOSED = word_set(
    "alone asleep awake available away back below close empty full here high low next nearby "
    "present ready similar there together too tall visible wide also just still only now then "
    "almost very so ahead apart upside each both all either"
)
"""Words that may follow a noun directly without becoming its head."""

_NOUNS_IN_ED = word_set("bed red shed sled seed weed feed speed reed")

_NOUNS_IN_ING = word_set(
    "building ceiling clothing crossing drawing dressing frosting icing king landing lighting "
    "painting parking pudding railing ring siding sling spring string swing wing wiring"
)


def is_participle(word: str) -> bool:
    """Whether a word looks like "standing" or "parked", and not like "building" or "bed"."""
    return (word.endswith("ing") and word not in _NOUNS_IN_ING) or (
        word.endswith("ed") and word not in _NOUNS_IN_ED
    )


def may_follow_noun(word: str) -> bool:
    """Whether a singular noun stays the head of its phrase before this word.

    "corgi is", "pier leads", "man wearing": yes. "dog bowl", "car lights", "horse trailer": no.
    """
    return (
        word in AUXILIARIES | PREPOSITIONS | CONJUNCTIONS | DETERMINERS | RELATIVES | QUANTIFIERS
        or word in PRONOUNS | VERBS | _PAST | _POSTPOSED
        or is_participle(word)
        or word.endswith("ly")
        or not word[:1].isalpha()
    )


def may_follow_number(word: str) -> bool:
    """Whether a number in front of the word stands alone: "one is", not "one round table"."""
    return may_follow_noun(word) and word not in ADJECTIVES and not word.endswith("ing")


ADJECTIVES = word_set(
    "adult aged ancient antique bare beautiful big blank blurry bold brick bright broad broken "
    "ceramic checkered chubby clean clear closed cloth colorful colourful concrete cotton cute "
    "curly dark decorative deep dirty dotted dry empty enormous fancy fat flat fluffy folded "
    "fresh full furry giant glass glossy gold huge iron large leather light little lone long "
    "lovely low massive matte medium metal metallic modern muddy narrow neat new nice old open "
    "oval overturned pale paper parked plain plastic polished pretty puffy rectangular round "
    "rusty shiny short shorter silk sleek slender small smaller larger soft solid spotted "
    "square steel stone striped tabby tall taller thick thin tiny tin triangular used vintage "
    "vivid warm wet wide wild wooden woolen worn young younger older"
)
"""Adjectives and materials that may stand between a colour word and its noun."""

SOLITARY = word_set("single sole only lone solitary same alone individual")
"""Words that go with one thing and no more."""

PARTICIPLES = word_set(
    "wearing holding riding sitting standing lying walking carrying eating looking playing "
    "flying jumping running with"
)
"""Words with which a label passes from its noun to a description: "man wearing a hat"."""

PEOPLE = word_set(
    "man woman person boy girl child kid baby people guy lady gentleman player umpire batsman "
    "bowler rider skier surfer driver worker officer soldier athlete student teacher crowd "
    "family couple human adult toddler bride groom face skin"
)
"""Nouns whose colour word is not the colour of their pixels."""

COLOR_NAMES_OF_KINDS = {
    "bear": word_set("black brown"),
    "bean": word_set("green black white red"),
    "beans": word_set("green black white red"),
    "berry": word_set("black blue"),
    "board": word_set("black white"),
    "bread": word_set("white brown"),
    "card": word_set("red yellow green"),
    "cabbage": word_set("red white"),
    "coffee": word_set("black white"),
    "chocolate": word_set("white"),
    "deer": word_set("red white"),
    "juice": word_set("orange"),
    "sugar": word_set("brown white"),
    "eye": word_set("black red"),
    "fox": word_set("red gray"),
    "heron": word_set("gray blue"),
    "jay": word_set("blue"),
    "light": word_set("red green yellow"),
    "meat": word_set("red white"),
    "onion": word_set("red white green purple yellow"),
    "panda": word_set("red"),
    "pepper": word_set("black white red green yellow"),
    "rice": word_set("white brown"),
    "squirrel": word_set("gray red"),
    "tea": word_set("green black white"),
    "whale": word_set("blue gray"),
    "wine": word_set("red white"),
    "wolf": word_set("gray"),
}
"""Nouns whose colour word names a sort ("black bear"): recolouring does not change the sort."""

PLACE_WORDS = word_set(
    "left right middle center centre corner next beside between behind front near nearby "
    "against opposite among alone attached adjacent surrounded touching inside leftmost "
    "rightmost"
)
"""Words that tie a thing to one place, where a copy elsewhere would not be."""

HANDLING_WORDS = word_set(
    "holding holds held carrying carries carried wearing wears worn riding rides rode eating eats "
    "drinking drinks throwing throws catching catches hitting hits pushing pushes pulling pulls "
    "using uses driving drives walking walks leading leads petting feeding feeds chasing chases "
    "swinging swings has have had having"
)
"""Words whose object is a thing that somebody is busy with."""

OTHER_SORTS = {
    "bear": word_set("teddy gummy"),
    "bears": word_set("teddy gummy"),
    "dog": word_set("hot"),
    "dogs": word_set("hot"),
    "fish": word_set("star jelly"),
    "horse": word_set("rocking"),
    "light": word_set("traffic"),
    "lights": word_set("traffic"),
    "lion": word_set("sea"),
    "lions": word_set("sea"),
    "mouse": word_set("computer wireless"),
}
"""Words that make a noun name something else: a hot dog is not a dog."""

STUFF = word_set(
    "sky grass ground floor water sand snow dirt mud gravel ice wall street road pavement sidewalk "
    "sea ocean lake river beach shore field meadow lawn air forest slope hill hillside pasture "
    "ceiling foliage greenery vegetation background foreground scenery light shadow reflection "
    "weather track tracks path trail court savanna desert park parking"
)
"""Nouns of things without an outline: a box around some of it leaves the rest."""

PICTURE = word_set("picture image photo photograph scene view screenshot")
"""Nouns that may mean the whole image."""

GROUNDS = STUFF | PICTURE | word_set("camera stone cloth carpet yard city town woods kitchen room")
"""Grounds that a copy, pasted where the surroundings look similar, stands on or in as well."""

CLOTHES = word_set(
    "shirt suit dress jacket hat cap helmet uniform coat jersey shorts pants jeans outfit clothes "
    "vest sweater gear apron costume robe"
)
"""Things that a copy of a person wears as well."""

PARTS = word_set(
    "arm beak bumper button collar corner door ear edge engine eye face finger fin foot fur hair "
    "hand handle hair head headlight hoof horn knee lap leg letter lid lip mane mouth neck nose "
    "paw pocket rim roof screen seat shoulder side sleeve spoke stem stripe tail tile tire toe "
    "tooth top trunk tusk wheel window windshield wing"
)
"""Parts of things; others of them are usually not annotated."""

GENERIC = word_set(
    "animal appliance building clothing clothes device electronics food fruit furniture item "
    "object plant structure thing toy vegetable vehicle"
)
"""Nouns that also fit things annotated under another name."""

KIN = word_set(
    "mother father parent parents sibling siblings brother sister friend companion mate twin herd "
    "flock pack litter"
)
"""Words that may mean another one of the same kind: "a baby elephant and its mother"."""

MALE = word_set("man boy guy gentleman groom")
FEMALE = word_set("woman girl lady bride")
ADULTS = word_set("man guy gentleman groom woman lady bride adult")
CHILDREN = word_set("boy girl child kid baby toddler")
