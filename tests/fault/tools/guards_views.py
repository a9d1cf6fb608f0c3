"""More of `guards.py`: what makes sure that a view is the view."""

from guards import Guard

FORGED_VIEWS, TRANSFORMS = "fault/test_forged_views.py", "fault/test_transforms.py"
GROWTH, PROOFS = "integration/test_view_growth.py", "integration/test_view_proofs.py"
LATER, MISTAKES = "integration/test_views_of_later_builds.py", "fault/test_view_mistakes.py"
NONE = "fault/test_samples_without_views.py"

GUARDS = [
    Guard(
        "builder/answer/samples.py",
        "if not agrees(view, check, exact=recorded.versions == recorded.here):",
        "if False:",
        f"{GROWTH} -k later",
    ),
    Guard("builder/answer/samples.py", "if differ:", "if False:", f"{TRANSFORMS} -k cannot_be_replayed"),
    Guard("builder/answer/samples.py", "if check == NO_VIEW:", "if False:", f"{TRANSFORMS} -k cannot_be_augmented"),
    Guard(
        "builder/prepare/view_records.py",
        "len(checks) != shard.rows or (drawn is not None and len(drawn) != shard.rows)",
        "False",
        f"{FORGED_VIEWS} -k later",
    ),
    Guard(
        "builder/publish/shards.py",
        "recorded is not None and not read_recorded(out.files, in_force.shard, in_force.versions).equals(recorded)",
        "False",
        f"{FORGED_VIEWS} -k two_builders",
    ),
    Guard("builder/engines/local.py", "rows.write_for(job.fragment)", "[]", f"{FORGED_VIEWS} -k before"),
    Guard(
        "builder/prepare/cache_checks.py",
        'differences(None if record is None else record["declaration"], declared, "augmentation")',
        "[]",
        f"{TRANSFORMS} -k another_augmentation",
    ),
    Guard("builder/prepare/fragments.py", " or n in written", "", f"{GROWTH} -k redone"),
    Guard(
        "store/declarations.py",
        "seed: Annotated[int, Field(strict=True)]",
        "seed: int",
        f"{FORGED_VIEWS} -k augmentations",
    ),
    Guard("store/declarations.py", "Field(min_length=1)", "Field()", f"{FORGED_VIEWS} -k augmentations"),
    Guard(
        "read/lookup.py",
        "all(one is None or isinstance(one, dict) for one in found)",
        "True",
        f"{FORGED_VIEWS} -k parameters",
    ),
    Guard(
        "audit/stored_rows.py",
        '(np.diff(arrow.numbers(batch["check"].offsets)) != fragment.views).any()',
        "False",
        f"{FORGED_VIEWS} -k checks",
    ),
    Guard("loaders/views.py", "if agrees(made, check, exact=self._is_exact):", "if True:", f"{PROOFS} -k refused"),
    Guard("loaders/views.py", "if check == NO_VIEW:", "if False:", f"{NONE} -k without_any"),
    Guard("loaders/views.py", "for view in {0, count - 1}:", "for view in ():", f"{GROWTH} -k fewer_views"),
    Guard(
        "loaders/ids.py",
        "cache.check_contents(found, hashes, None if cache.commit.views == 1 else 0)",
        "pass",
        f"{PROOFS} -k changed_since",
    ),
    Guard("transfer/view_checks.py", "if _checksum(parts) == check[:4]:", "if True:", f"{PROOFS} -k refused"),
    Guard("transfer/view_checks.py", "    if exact:\n", "    if False:\n", f"{PROOFS} -k may_round"),
    Guard(
        "transfer/view_checks.py", "(np.minimum(apart, 256 - apart) <= _APART).all()", "True", f"{PROOFS} -k may_round"
    ),
    Guard("builder/engines/local.py", "check_draws(predictor, jobs[0])", "pass", f"{MISTAKES} -k draws"),
    Guard(
        "builder/prepare/view_records.py",
        "shards += [(live.shard, committed) for live in inventory.shards(ROWS).values()]",
        "pass",
        f"{LATER} -k relabelled",
    ),
    Guard(
        "builder/prepare/view_records.py",
        "if written is None and not self._inventory.has_files(shard):",
        "if written is None and not self._inventory.has_files(shard):\n            return None\n        if False:",
        f"{LATER} -k invented",
    ),
    Guard(
        "builder/prepare/view_records.py",
        'r.declaration.get("augmentation") == declared',
        "False",
        f"{LATER} -k unfinished",
    ),
    Guard("loaders/views.py", "if unseen:", "if False:", f"{FORGED_VIEWS} -k not_recorded"),
    Guard(
        "builder/prepare/prepared.py",
        "check_partners(files, inventory.shards(ROWS).values(), work.changed)",
        "pass",
        f"{LATER} -k partner",
    ),
    Guard(
        "read/cache.py",
        "not 0 <= numbers.min() <= numbers.max() < self.commit.rows",
        "False",
        f"{MISTAKES} -k row_numbers",
    ),
    Guard("transfer/augmentation.py", "random.setstate(python)", "pass", f"{TRANSFORMS} -k left_as"),
    Guard("transfer/augmentation.py", "np.random.set_state(numpy)", "pass", f"{TRANSFORMS} -k left_as"),
    Guard("transfer/augmentation.py", "torch.default_generator.set_state(pytorch)", "pass", f"{TRANSFORMS} -k left_as"),
]
