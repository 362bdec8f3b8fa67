"""Champion and challenger, beside each other on what both scored live."""

from __future__ import annotations

import pandas as pd

from aegis_core.errors import NotReady
from aegis_core.metrics import average_precision, paired_bootstrap
from aegis_core.schema import NO_TRY, held_labels
from aegis_core.store import Store


def compared(store: Store, challenger: str = "", days: float = 30.0) -> tuple[pd.DataFrame, str]:
    """Champion and challenger on the transactions that both scored live.

    Parameters
    ----------
    challenger : a version that was in shadow; "" means the one that scored last.
    days : back from the last such transaction.

    Returns
    -------
    table :
        Rows `champion` (whoever decided then) and `challenger`; columns `transactions`, `frauds`,
        `alerts`, `caught`, `average_precision` (NaN without fraud).
    told :
        The difference in average precision with an interval, in a sentence.

    Raises
    ------
    NotReady : No challenger scored anything.
    """
    both = store.query(
        f"""
        WITH last AS ({held_labels()}), pairs AS (
          SELECT t.customer_id, t.ts, s.model_version AS version, coalesce(l.is_fraud, false) AS
            is_fraud, v.score AS champion, s.score AS challenger,
            v.decision != 'approve' AS champion_alert, s.decision != 'approve' AS challenger_alert
          FROM shadow_scores s JOIN verdicts v USING (seq) JOIN transactions t USING (seq)
            LEFT JOIN last l ON l.transaction_id = t.transaction_id
          WHERE s.model_version = coalesce(nullif($version, ''),
            (SELECT arg_max(model_version, seq) FROM shadow_scores))
          QUALIFY {NO_TRY}
        )
        FROM pairs WHERE ts > (SELECT max(ts) FROM pairs) - to_seconds($days * 86400)
        """,
        {"version": challenger, "days": days},
    )
    if both.empty:
        none = f"{challenger} scored nothing" if challenger else "No challenger scored anything"
        raise NotReady(
            f"{none} in shadow yet. Put {'it' if challenger else 'one'} there with "
            f"`aegis models shadow {challenger or 'VERSION'}` and let transactions arrive."
        )
    fraud = both.is_fraud.to_numpy(bool)
    names = ("champion", "challenger")
    table = pd.DataFrame(
        {
            "transactions": len(both),
            "frauds": int(fraud.sum()),
            "alerts": [int(both[f"{n}_alert"].sum()) for n in names],
            "caught": [int((both[f"{n}_alert"] & fraud).sum()) for n in names],
            "average_precision": [average_precision(fraud, both[n]).value for n in names],
        },
        index=list(names),
    ).astype({"average_precision": float})
    found = paired_bootstrap(fraud, both["challenger"], both["champion"], both["customer_id"])
    version = both.version.iloc[0]
    if found.value is None or found.low is None or found.high is None:
        return table, f"No fraud is known among the {len(both):,} transactions that {version} saw."
    word = "better" if found.low > 0 else "worse" if found.high < 0 else "neither better nor worse"
    return table, (
        f"In average precision {version} is {word} than the champion: {found.value:+.3f} "
        f"({found.low:+.3f} to {found.high:+.3f} in nine of ten draws of the customers). What "
        "nobody answered counts as ordinary, which favours the champion: its alerts were answered. "
        "Alerts of the champion are by the threshold that kept its budget then, which follows the "
        f"traffic, and those of {version} by the one that it was trained with."
    )
