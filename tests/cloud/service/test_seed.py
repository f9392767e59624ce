"""Master data: the sample loads, loading twice changes nothing, and mistakes are named by table, row and field."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.errors import Invalid
from forewarn_cloud.seed import parse_master_data, seed
from forewarn_models.asset_type import builtin_asset_type, builtin_names

SAMPLE = Path(__file__).parents[3] / "deploy" / "master-data.toml"
PART = '[[parts]]\npart_no = "A"\nname_en = "a"\nname_zh = "甲"\nunit_cost = 1\npurchase_hours = 2\n'
DEPOT = '[[depots]]\ndepot = "north"\nname = "North"\n'


def rows(engine: Engine, table: str) -> list[tuple[object, ...]]:
    found = schema.metadata.tables[table]
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(found.select().order_by(*found.primary_key)).all()]


def test_the_sample_has_every_part_the_built_in_asset_types_ask_for() -> None:
    asked = {
        need.part_no
        for name in builtin_names()
        for mode in builtin_asset_type(name).failure_modes
        for need in mode.parts
    }
    found = parse_master_data(SAMPLE.read_text("utf-8"))
    assert asked == {part.part_no for part in found.parts}
    assert asked == {row.part_no for row in found.stock}


def test_loading_again_changes_nothing_and_never_the_stock(engine: Engine) -> None:
    found = parse_master_data(SAMPLE.read_text("utf-8"))
    assert seed(engine, "local", found, 1000)["parts"] == 8
    with writing(engine) as connection:
        used = schema.stock.c.part_no == "PMP-SEAL-45"
        connection.execute(update(schema.stock).where(used).values(on_hand=1, reserved=1))
    before = {table: rows(engine, table) for table in schema.metadata.tables}
    seed(engine, "local", found, 2000)
    assert {table: rows(engine, table) for table in schema.metadata.tables} == before


def test_what_the_file_says_differently_is_updated(engine: Engine) -> None:
    seed(engine, "local", parse_master_data(PART), 1000)
    seed(engine, "local", parse_master_data(PART.replace("unit_cost = 1", "unit_cost = 9.5")), 1000)
    assert [row[4] for row in rows(engine, "parts")] == [9.5]


def test_a_row_may_refer_to_what_was_loaded_before_but_not_to_another_tenant(engine: Engine) -> None:
    seed(engine, "local", parse_master_data(PART + DEPOT), 1000)
    stock = parse_master_data('[[stock]]\npart_no = "A"\ndepot = "north"\non_hand = 3\n')
    seed(engine, "local", stock, 1000)
    assert len(rows(engine, "stock")) == 1
    with pytest.raises(Invalid, match=r"stock row 1, part_no: 'A' is not in \[\[parts\]\]"):
        seed(engine, "other", stock, 1000)


def test_a_mistake_anywhere_writes_nothing(engine: Engine) -> None:
    wrong = parse_master_data(PART + DEPOT + '[[stock]]\npart_no = "A"\ndepot = "south"\non_hand = 3\n')
    with pytest.raises(Invalid, match="stock row 1, depot"):
        seed(engine, "local", wrong, 1000)
    assert rows(engine, "parts") == rows(engine, "depots") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PART.replace("unit_cost = 1", 'unit_cost = "1"'), r"parts row 1, unit_cost: Expected `float`, got `str`"),
        (PART.replace("unit_cost = 1", "unit_cost = -1"), r"parts row 1, unit_cost: Expected `float` >= 0.0"),
        (PART.replace("unit_cost = 1", "unit_cost = nan"), r"parts row 1, unit_cost"),
        (PART.replace("unit_cost = 1", "unit_cost = inf"), r"parts row 1, unit_cost"),
        (PART + PART.replace('"A"', '"a b"'), r"parts row 2, part_no: use letters, digits, _ and -, at most 64"),
        (PART + PART, r"parts row 2: A is given in row 1 already"),
        (PART.replace('name_en = "a"', 'name_en = "a\\r\\nBcc: x"'), r"parts row 1, name_en: give one line of text"),
        (PART.replace("purchase_hours = 2", ""), r"parts row 1: Object missing required field `purchase_hours`"),
        (PART + "colour = 3", r"parts row 1: Object contains unknown field `colour`"),
        ('[[stock]]\npart_no = "A"\ndepot = "n"\non_hand = 1.5', r"stock row 1, on_hand: Expected `int`"),
        ('[[stock]]\npart_no = "A"\ndepot = "n"\non_hand = true', r"stock row 1, on_hand: Expected `int`"),
        ('[[customers]]\ncustomer = "c"\nname = "n"\ntier = 4', r"customers row 1, tier: Expected `int` <= 3"),
        (
            '[[customers]]\ncustomer = "c"\nname = "n"\nemail = "a@b\\nBcc: c"',
            r"customers row 1, email: give one e-mail",
        ),
        ('[[customers]]\ncustomer = "c"\nname = "n"\nwebhook_url = "file:///etc"', r"customers row 1, webhook_url"),
        (
            '[[sites]]\nsite = "s"\nname = "n"\ncustomer = "c"\ndepot = "d"\ntime_zone = "Mars/Base"',
            r"sites row 1, time_zone: 'Mars/Base' is no IANA time zone",
        ),
        ("customer = 3", r"master data: Object contains unknown field `customer`"),
        ("[[parts]", r"master data: not TOML"),
    ],
)
def test_a_mistake_is_named_by_table_row_and_field(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse_master_data(text)
