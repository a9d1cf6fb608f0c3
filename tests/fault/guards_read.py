"""More of `guards.py`: what is checked inside files, when they are read and when they are verified."""

from guards import BUILD, COMMITTERS, FORGED, HUNTED, MANIFEST, VERIFY, Guard

TABLES, FORGED_VERIFY = "fault/test_forged_tables.py", "fault/test_forged_verify.py"
PLACE = f"{MANIFEST} -k place"
REFUSED = f"{MANIFEST} -k refused"

GUARDS = [
    # Arrow files, the plan, the index.
    Guard("store/arrow.py", '[m.type for m in messages] != ["schema", "record batch"]', "False", f"{TABLES} -k stream"),
    Guard("store/arrow.py", "_is_compressed(messages[1].metadata)", "False", f"{TABLES} -k stream"),
    Guard("store/arrow.py", "batch.validate(full=True)", "pass", f"{TABLES} -k stream"),
    Guard("store/arrow.py", "len(set(batch.schema.names)) != batch.num_columns", "False", f"{TABLES} -k stream"),
    Guard("store/arrow.py", "    if any(map(null_count, batch.columns)):", "    if False:", f"{TABLES} -k stream"),
    Guard("store/plan.py", "sha256(data) != head", "False", f"{TABLES} -k plan"),
    Guard(
        "store/plan.py",
        "any(types.get(name) not in kinds for name, kinds in _TYPES.items())",
        "False",
        f"{TABLES} -k plan",
    ),
    Guard("store/plan.py", "not len(contents) or", "", f"{TABLES} -k plan"),
    Guard("store/plan.py", 'or len(contents) != len(batch["sample_id"][i].values)', "", f"{TABLES} -k plan"),
    Guard("store/plan.py", "or first_view < 0", "", f"{TABLES} -k plan"),
    Guard("store/plan.py", "or views < 1", "", f"{TABLES} -k plan"),
    Guard("store/plan.py", "first_view + views > 2**31", "False", f"{TABLES} -k plan"),
    Guard("store/index.py", 'batch.schema.names != ["key", "row"] or', "", f"{TABLES} -k segment"),
    Guard("store/index.py", "batch.schema.types != [key_type, pa.int64()] or", "", f"{TABLES} -k segment"),
    Guard("store/index.py", "or not batch.num_rows", "", f"{TABLES} -k segment"),
    Guard("store/index.py", "len(blocks) != -(-len(whole) // BLOCK_BYTES)", "False", f"{TABLES} -k segment"),
    Guard("store/index.py", "!= self._blocks[block]", "!= self._blocks[block] and False", f"{VERIFY} -k index"),
    Guard("store/index.py", "where=there == keys", "where=there == there", f"{BUILD} -k all_kinds"),
    Guard("store/index.py", "same = (there == keys[positions])", "same = (there == there)", f"{FORGED} -k missing_key"),
    # The manifest.
    Guard(
        "store/manifest.py",
        "any(types.get(name) != kind for name, kind in _TYPES.items())",
        "False",
        f"{MANIFEST} -k not_a",
    ),
    Guard("store/manifest.py", "rows is None or", "rows is not None and", f"{MANIFEST} -k cover"),
    Guard("store/manifest.py", "rows.first_row[0] != 0 or", "", f"{MANIFEST} -k cover"),
    Guard(
        "store/manifest.py",
        "or (rows.first_row[1:] != rows.first_row[:-1] + rows.rows[:-1]).any()",
        "",
        f"{MANIFEST} -k cover",
    ),
    Guard("store/manifest.py", "self._check_place(shards, rows)", "pass", PLACE),
    Guard("store/manifest.py", "if name in found:", "if False:", f"{TABLES} -k manifest"),
    Guard("store/manifest.py", "(TypeError, ValueError, RecursionError)", "ZeroDivisionError", f"{TABLES} -k manifest"),
    Guard(
        "store/manifest.py",
        'not isinstance(found, dict) or not isinstance(found.get("valid"), int)',
        "False",
        f"{TABLES} -k manifest",
    ),
    Guard(
        "store/manifest.py",
        '(np.diff(arrow.numbers(batch["files"].offsets)) == per_file).all()',
        "True",
        f"{TABLES} -k manifest",
    ),
    Guard(
        "store/manifest.py",
        '(np.diff(arrow.numbers(batch["columns"].offsets)) == per_column).all()',
        "True",
        f"{TABLES} -k manifest",
    ),
    Guard("store/manifest.py", "and per_file > 0", "", f"{TABLES} -k manifest"),
    Guard("store/manifest.py", "not part.slice(0, others).equals(part.slice(per_column))", "False", REFUSED),
    Guard("store/manifest.py", "dtype not in DTYPES or", "", REFUSED),
    Guard("store/manifest.py", "not 0 <= file < per_file", "file < 0", REFUSED),
    Guard("store/manifest.py", "not 0 <= file < per_file", "file >= per_file", REFUSED),
    Guard("store/manifest.py", "(s.rows < 1).any() or", "", REFUSED),
    Guard("store/manifest.py", "(s.first_row < 0).any() or", "", REFUSED),
    Guard("store/manifest.py", "(s.rows > 2**48).any() or", "", REFUSED),
    Guard("store/manifest.py", "or (s.first_row > 2**48).any()", "", REFUSED),
    Guard("store/manifest.py", "(s.first_row[1:] < s.first_row[:-1] + s.rows[:-1]).any()", "False", REFUSED),
    Guard("store/manifest.py", "(s.first_views < 0).any() or", "", f"{TABLES} -k manifest"),
    Guard("store/manifest.py", "(s.views < 1).any() or", "", f"{TABLES} -k manifest"),
    Guard("store/manifest.py", "or (s.rows % s.views).any()", "", f"{TABLES} -k manifest"),
    Guard("store/manifest.py", "(s.file_bytes < 0).any() or", "", REFUSED),
    Guard("store/manifest.py", "or (s.file_bytes > 2**50).any()", "", REFUSED),
    Guard("store/manifest.py", "(s.rows > 8 * s.file_bytes.sum(1)).any()", "False", REFUSED),
    Guard("store/manifest.py", "(counts != -(-s.file_bytes // BLOCK_BYTES)).any()", "False", REFUSED),
    Guard("store/manifest.py", "(offset < 0).any() or", "", REFUSED),
    Guard("store/manifest.py", "(size < 0).any() or", "", f"{TABLES} -k manifest"),
    Guard("store/manifest.py", "or (offset > s.file_bytes[:, file] - size).any()", "", REFUSED),
    Guard("store/manifest.py", "(rows.first_row[at] == s.first_row) &", "", PLACE),
    Guard("store/manifest.py", "(rows.rows[at] == s.rows) &", "", PLACE),
    Guard("store/manifest.py", "& (rows.fragments[at] == s.fragments)", "", PLACE),
    Guard("store/manifest.py", "or not rows.keys.take(places).equals(s.keys)", "", PLACE),
    Guard("store/manifest.py", "or not rows.splits.take(places).equals(s.splits)", "", PLACE),
    # Reading.
    Guard("read/span.py", "not stat.S_ISREG(found.st_mode)", "False", f"{HUNTED} -k pipes"),
    Guard("read/span.py", "actual != size", "False", f"{VERIFY} -k damaged_shards"),
    Guard("read/span.py", "crc32c(data) != expected", "False", f"{VERIFY} -k refused_when"),
    Guard("read/span.py", "if not self._is_checked[block]:", "if False:", f"{VERIFY} -k refused_when"),
    Guard("read/span.py", "span_id == keep[0] and shard in keep[1]", "False", f"{HUNTED} -k more_shards"),
    Guard(
        "read/gather.py",
        "position is None or shards.columns[position][1] != stored",
        "position is None",
        f"{FORGED} -k window",
    ),
    Guard("read/gather.py", "+ self._size).any():", "+ self._size).any() and False:", f"{FORGED} -k window"),
    Guard("read/gather.py", "(begin < 0).any() or", "", f"{FORGED} -k text"),
    Guard("read/gather.py", "(lengths < 0).any() or", "", f"{FORGED} -k text"),
    Guard("read/gather.py", "or (bounds[:, 1] > self._sizes[shard]).any()", "", f"{FORGED} -k text"),
    Guard("read/gather.py", "strings.validate(full=True)", "pass", f"{FORGED} -k text"),
    Guard(
        "read/lookup.py",
        "            read_reference(self._files, reference)\n",
        "            pass\n",
        f"{FORGED} -k missing_key",
    ),
    Guard("read/lookup.py", "positions, rows = positions[same], rows[same]", "pass", f"{FORGED} -k collide"),
    Guard("read/lookup.py", "(np.diff(ends) != 32).any()", "False", f"{FORGED} -k content"),
    Guard("read/cache.py", "shards[ROWS].end != state.commit.rows", "False", f"{FORGED} -k commit"),
    # Building.
    Guard("builder/canary.py", "or not torch.allclose(old, new, rtol=0, atol=allowed)", "", f"{BUILD} -k canaries"),
    Guard("builder/canary.py", "(*done[:1], *done[-1:])", "done[:1]", f"{FORGED} -k canaries"),
    Guard("builder/canary.py", "(*done[:1], *done[-1:])", "done[-1:]", f"{FORGED} -k canaries"),
    Guard("builder/executor.py", "        check_canaries(", "        str and (", f"{BUILD} -k canaries"),
    Guard("builder/executor.py", "check_targets(files, stored, targets)", "pass", f"{BUILD} -k nothing_stale"),
    Guard("builder/executor.py", "check_targets(files, stored, prepared.targets)", "pass", f"{COMMITTERS} -k weights"),
    Guard("builder/executor.py", 'check_keep(state, declaration["keep"])', "pass", f"{HUNTED} -k drift"),
    Guard(
        "builder/units.py",
        "all(self.sizes.get(f.path) == f.bytes for f in shard.files)",
        "True",
        f"{HUNTED} -k lost_shard",
    ),
    Guard("builder/shard_writer.py", "if files.size(file.path) != file.bytes:", "if False:", f"{FORGED} -k lost"),
    # Verifying.
    Guard(
        "read/verify.py",
        "self._try(commit_path(number), check_parent, self._files, commit, parent)",
        "pass",
        FORGED_VERIFY,
    ),
    Guard("read/verify.py", "manifest.targets()", "pass", FORGED_VERIFY),
    Guard(
        "read/verify.py",
        "for segment in commit.index:\n            self._read_reference(segment)",
        "pass",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify.py", "self._check_place(live, plan, commit.manifest.path)", "pass", "fault/test_forged_verify.py"
    ),
    Guard("read/verify.py", "        self._check_receipts()", "        pass", f"{VERIFY} -k flipped_bit_is"),
    Guard("read/verify.py", "if size is None:", "if False:", f"{VERIFY} -k damaged_shards"),
    Guard("read/verify.py", "size not in (file.bytes, -1)", "False", f"{VERIFY} -k damaged_shards"),
    Guard("read/verify.py", "sha256(data) != file.sha256", "False", f"{VERIFY} -k flipped_bit_is"),
    Guard("read/verify.py", "tuple(blocks) != file.blocks", "False", FORGED_VERIFY),
    Guard(
        "read/verify.py", "card is not None and card != render(commit, live)", "False", f"{VERIFY} -k flipped_bit_is"
    ),
    Guard("read/verify.py", "not has_its_keys(fragment)", "False", FORGED_VERIFY),
    Guard("read/verify_contents.py", "splits != cache.commit.splits", "False", f"{VERIFY} -k forged_commit"),
    Guard("read/verify_contents.py", "not _close(found, said)", "False", f"{VERIFY} -k forged_commit"),
    Guard(
        "read/verify_contents.py",
        "if not np.array_equal(np.sort(",
        "if False and np.array_equal(np.sort(",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify_contents.py",
        "any((s.keys[1:] < s.keys[:-1]).any() for s in segments)",
        "False",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify_contents.py",
        "any(tuple(block_checksums(s.data)) != r.blocks for s, r in",
        "False and any(() for s, r in",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify_contents.py",
        'not file.path.endswith(f"-{file.sha256}.arrow")',
        "False",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify_contents.py", "arrow.locate(data) != live.shard.columns", "False", "fault/test_forged_verify.py"
    ),
    Guard(
        "read/verify_contents.py", "not same or batch.num_rows != fragment.rows", "False", "fault/test_forged_verify.py"
    ),
    Guard("read/verify_contents.py", "not top.endswith(", "False and top.endswith(", f"{VERIFY} -k other_samples"),
    Guard("read/verify_contents.py", "digests.keys() != expected.keys()", "False", FORGED_VERIFY),
    Guard("read/verify_contents.py", '"/c/" in name and stored != data', "False", f"{VERIFY} -k other_samples"),
    Guard("read/verify_contents.py", "_shape(stored) != _shape(data)", "False", FORGED_VERIFY),
    Guard(
        "read/verify_contents.py",
        "cache.check_contents(fragment.row_ids(), contents, fragment.row_views())",
        "pass",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify_contents.py",
        "not np.array_equal(cache.find(",
        "False and not (cache.find(",
        FORGED_VERIFY,
    ),
    Guard(
        "read/verify_contents.py", "not _close(found, live.shard.statistics)", "False", "fault/test_forged_verify.py"
    ),
]
