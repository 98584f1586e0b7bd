"""What an expansion must keep of a prompt."""

import time

import pytest

from data_pipeline.expansion.checks import missing

FILM = "A photograph, 35 mm film, of {}, in the evening."


@pytest.mark.parametrize(
    ("prompt", "text", "lacking"),
    [
        # quoted text stands letter by letter
        ('a sign that says "OPEN"', 'A sign with the word "OPEN" on it.', []),
        ('a sign that says "OPEN"', "A sign with the word Open on it.", ['"OPEN"']),
        ('a sign that says "OPEN"', "A sign with the word OPENING on it.", ['"OPEN"']),
        ('a cake, "Hello, you."', "A cake with “Hello, you” in icing.", []),
        ("a shop called 'Joe’s Bar'", "A shop; its sign reads 'Joe's Bar'.", []),
        ("a poster «Le Chat»", "A poster about a cat.", ['"Le Chat"']),
        ("the dogs' bowl and the cats' milk", "A bowl.", []),  # no quotation
        ("「東京」 in neon", "A neon sign.", ['"東京"']),
        # numbers, in digits or in words
        ("3 cats", "Three cats on a sofa.", []),
        ("three cats", "A group of 3 cats.", []),
        ("three cats", "Several cats.", ["3"]),
        ("3 cats", "13 cats, 3.5 kg each.", ["3"]),
        ("two dozen eggs", "24 eggs in a box.", []),
        ("twenty-one candles", "A cake with 21 candles.", []),
        ("two hundred and five sheep", "205 sheep.", []),
        ("1,000 lanterns", "A thousand lanterns.", []),
        ("two swans", "A pair of swans.", []),
        ("one swan", "A single swan.", []),
        ("a clock at 10:45", "A clock that shows 10:54.", ["10:45"]),
        ("a 3-legged stool", "A stool with four legs.", ["3"]),
        ("three and five birds", "Three birds here, five there.", []),
        # names
        ("a portrait of Marie Curie", "A portrait of a chemist.", ["Marie", "Curie"]),
        ("Einstein's desk", "The desk of Albert Einstein.", []),
        ("what I'm dreaming: don't wake Anna", "A dream.", ["Anna"]),
        ("Don't look now. They're in Rome", "A square in Rome.", []),
        ("Paris at night", "A city at night.", ["Paris"]),
        ("Cats at night", "Two grey cats in the moonlight.", []),
        ("A Cat in Rome", "A cat walks through Rome.", []),
        ("Beautiful view of Porto", "The roofs of Porto.", []),
        ("a robot like R2-D2", "A robot like R2-D2, blue and white.", []),
        ("a robot like R2-D2", "A robot, blue and white.", ["R2-D2"]),
        ("50mm photo", "A photo through a 50 mm lens.", []),
        ("a NASA rocket", "A rocket.", ["NASA"]),
        ("an iPhone", "A phone.", ["iPhone"]),
        ("a Coca-Cola can", "A can of Coca Cola.", []),
        ("A RED FOX IN SNOW", "A red fox in the snow.", []),
        ("A RED FOX IN SNOW", "A red dog in the snow.", ["FOX"]),
        ("Café Müller", "The CAFÉ MÜLLER.", []),
        ("портрет Анны", "A portrait of Anna.", []),  # transliterated
        ("一只猫", "A cat.", []),
        ('Anna with 2 dogs and "Hi"', "A woman.", ['"Hi"', "2", "Anna"]),
    ],
)
def test_what_is_lost_is_named(prompt, text, lacking):
    assert missing(prompt, text) == lacking
    assert missing(prompt, FILM.format(prompt)) == []


@pytest.mark.parametrize(
    "prompt", ["'a" * 2000, "." * 4000 + "A", '"' * 4001, "9," * 2000, "one " * 1000, "É's " * 999]
)
def test_foreign_texts_take_no_time(prompt):
    began = time.process_time()
    missing(prompt, "x" * 4000)
    assert time.process_time() - began < 2
