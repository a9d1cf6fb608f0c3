"""More of `guards.py`: what makes sure that a view is the view."""

from guards import Guard

REPLAY, FORGED_VIEWS = "integration/test_replay.py", "fault/test_forged_views.py"

GUARDS = [
    Guard(
        "builder/samples.py",
        "if not agrees(view, check, exact=recorded.versions == recorded.here):",
        "if False:",
        f"{REPLAY} -k later",
    ),
    Guard("builder/samples.py", "if differ:", "if False:", f"{REPLAY} -k cannot_be_replayed"),
    Guard("builder/samples.py", "if check == NO_VIEW:", "if False:", f"{REPLAY} -k cannot_be_augmented"),
    Guard(
        "builder/view_records.py",
        "len(checks) != shard.rows or (drawn is not None and len(drawn) != shard.rows)",
        "False",
        f"{FORGED_VIEWS} -k later",
    ),
    Guard(
        "builder/shard_writer.py",
        "recorded is not None and not recorded.are_those_of(files, in_force.shard)",
        "False",
        f"{FORGED_VIEWS} -k two_builders",
    ),
    Guard("builder/executor.py", "rows.write_for(job.fragment)", "pass", f"{FORGED_VIEWS} -k before"),
    Guard(
        "builder/units.py",
        'differences((stored or {}).get("declaration"), declared, "augmentation")',
        "[]",
        f"{REPLAY} -k another_augmentation",
    ),
    Guard("builder/planning.py", " or n in written", "", f"{REPLAY} -k redone"),
    Guard("store/commits.py", 'not isinstance(declared.get("seed"), int)', "False", f"{FORGED_VIEWS} -k augmentations"),
    Guard("store/commits.py", "not isinstance(used, list) or not used or", "", f"{FORGED_VIEWS} -k augmentations"),
    Guard(
        "read/lookup.py",
        "all(one is None or isinstance(one, dict) for one in found)",
        "True",
        f"{FORGED_VIEWS} -k parameters",
    ),
    Guard(
        "read/verify_contents.py",
        '(np.diff(arrow.numbers(batch["check"].offsets)) != fragment.views).any()',
        "False",
        f"{FORGED_VIEWS} -k checks",
    ),
    Guard("read/views.py", "if agrees(made, check, exact=self._is_exact):", "if True:", f"{REPLAY} -k refused"),
    Guard("read/views.py", "if check == NO_VIEW:", "if False:", "fault/test_hunted_views.py -k without_any"),
    Guard("read/views.py", "for view in {0, count - 1}:", "for view in ():", f"{REPLAY} -k fewer_views"),
    Guard("read/views.py", "cache.check_contents(found, hashes, 0)", "pass", f"{REPLAY} -k changed_since"),
    Guard("transfer/view_checks.py", "if _checksum(parts) == check[:4]:", "if True:", f"{REPLAY} -k refused"),
    Guard("transfer/view_checks.py", "    if exact:\n", "    if False:\n", f"{REPLAY} -k may_round"),
    Guard(
        "transfer/view_checks.py", "(np.minimum(apart, 256 - apart) <= _APART).all()", "True", f"{REPLAY} -k may_round"
    ),
    Guard("builder/executor.py", "runner.check_draws(jobs[0])", "pass", "fault/test_hunted_views.py -k draws"),
    Guard(
        "builder/preparing.py",
        "shards += [live.shard for live in stored.live.values()]",
        "pass",
        "fault/test_hunted_views.py -k labelled_anew",
    ),
    Guard(
        "builder/preparing.py",
        "if own is None and not prepared.stored.is_there(shard):",
        "if own is None and not prepared.stored.is_there(shard):\n            return None\n        if False:",
        "fault/test_hunted_views.py -k made_up",
    ),
    Guard(
        "builder/preparing.py",
        'r.declaration.get("augmentation") == declared',
        "False",
        "fault/test_hunted_views.py -k unfinished",
    ),
    Guard("read/views.py", "if unseen:", "if False:", f"{FORGED_VIEWS} -k not_recorded"),
    Guard(
        "builder/preparing.py",
        "check_partners(files, stored.live.values(), work.changed)",
        "pass",
        "fault/test_hunted_views.py -k partner",
    ),
    Guard(
        "read/cache.py",
        "not 0 <= numbers.min() <= numbers.max() < self.commit.rows",
        "False",
        "fault/test_hunted_views.py -k row_numbers",
    ),
    Guard("transfer/augmentation.py", "random.setstate(python)", "pass", f"{REPLAY} -k left_as"),
    Guard("transfer/augmentation.py", "np.random.set_state(numpy)", "pass", f"{REPLAY} -k left_as"),
    Guard("transfer/augmentation.py", "torch.default_generator.set_state(pytorch)", "pass", f"{REPLAY} -k left_as"),
]
