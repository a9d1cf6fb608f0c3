"""Guards of what a verification proves about what is stored, and of what a forged cache must not reach."""

from guards import Guard

VALUES, TRUST = "fault/test_forged_values.py", "fault/test_trust.py"
CHANGING = "fault/test_changing_samples.py"

GUARDS = [
    Guard("audit/contents.py", "target.fingerprint != fingerprint([name, target.declaration])", "False", VALUES),
    Guard("audit/contents.py", "if said != expected:", "if False:", VALUES),
    Guard(
        "audit/contents.py",
        "target.skipped_rows != target.rows - target.valid",
        "False",
        "fault/test_verify.py -k forged_commit",
    ),
    Guard("audit/verifier.py", "if self._has_grown else ()", "if False else ()", "fault/test_gc.py -k live_shard"),
    Guard(
        "audit/contents.py",
        'live.shard.unit_key != unit_key(fragment.keys_sha256, target.provenance["fingerprint"])',
        "False",
        VALUES,
    ),
    Guard("audit/stored_rows.py", "if live.shard.unit_key != unit_key(", "if False and unit_key(", VALUES),
    Guard("audit/stored.py", "    elif found != expected:", "    elif False:", VALUES),
    Guard("audit/stored.py", "if list(found) != list(expected):", "if False:", VALUES),
    Guard("audit/stored.py", "if not _same_bits(column[~valid], missing[name].numpy()):", "if False:", VALUES),
    Guard("audit/stored.py", "        if bool(where.any()):", "        if False:", VALUES),
    Guard(
        "builder/prepare/inventory.py",
        "and r.epoch >= tables.get(r.fingerprint, 0)",
        "",
        "integration/test_tables.py -k later_epoch",
    ),
    Guard("store/arrow.py", "        check_metadata(batch.schema, path)", "        pass", f"{TRUST} -k metadata"),
    Guard("store/manifest.py", "if not is_split_name(split)]:", "if False]:", "fault/test_manifest.py -k splits"),
    Guard("read/span.py", "        if compressed:", "        if False:", f"{TRUST} -k compressed"),
    Guard("cli/output.py", 'c if c.isprintable() or c in "\\n\\t" else ascii(c)[1:-1]', "c", f"{TRUST} -k terminal"),
    Guard("transfer/transfer_set.py", "        if differs.any():", "        if False:", CHANGING),
]
