"""A policy file is checked completely, and the one that ships is the default."""

import pytest

from forewarn_cloud.errors import Invalid
from forewarn_cloud.service.policy import Policy, default_policy, parse_policy


def test_the_policy_that_ships_says_what_the_code_assumes() -> None:
    assert default_policy() == Policy()


def test_a_file_changes_only_what_it_says() -> None:
    policy = parse_policy('name = "north"\nvisit_cost = 900\n[autonomy.by_asset_type]\nmotor_fan = "observe"\n')
    assert (policy.name, policy.visit_cost, policy.inspection_cost) == ("north", 900.0, Policy().inspection_cost)
    assert (policy.autonomy.of("motor_fan"), policy.autonomy.of("centrifugal_pump")) == ("observe", "auto")


def test_two_policies_that_differ_have_different_hashes() -> None:
    assert parse_policy("").hash == Policy().hash
    assert parse_policy("visit_cost = 401").hash != Policy().hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("visit = 3", "unknown field `visit`"),
        ("[times]\nreview = 3", r"unknown field `review` - at `\$.times`"),
        ("visit_cost = '400'", r"Expected `float`, got `str` - at `\$.visit_cost`"),
        ("visit_cost = -1", "policy.visit_cost: -1.0 must be a finite number"),
        ("visit_cost = inf", "policy.visit_cost: inf must be a finite number"),
        ("visit_cost = nan", "policy.visit_cost: nan must be a finite number"),
        ("restocking_share = 2", "policy.restocking_share: 2.0 must be within 0..1"),
        ("[times]\nreview_hours = 0", "policy.review_hours: must be above 0"),
        ("[belief]\nfalse_alarm_at_alarm = 1.5", "policy.false_alarm_at_alarm: 1.5 must be within 0..1"),
        ("part_life_hours = 0", "policy.part_life_hours: must be above 0"),
        ("[autonomy]\ndefault = 'always'", "Invalid enum value 'always'"),
        ("visit_cost = ", "not TOML"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_and_the_key_named(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse_policy(text)
