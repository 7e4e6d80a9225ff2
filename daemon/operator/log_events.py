"""The log events, each declared once: level, fields, meaning. `rltraderctl reference log-events` prints them."""

from __future__ import annotations

from typing import NamedTuple


class LogEvent(NamedTuple):
    """A declared log event."""

    level: str
    fields: tuple[str, ...]
    meaning: str
    alarm: bool = False  # desks and gateways raise it as an alarm too, once an hour, with a heading in the manual


ONLINE_EVENTS: dict[str, LogEvent] = {
    "publisher_started": LogEvent(
        "info", ("redis", "state_dir"), "`rltrader-publisher` carries this desk's experience to this Redis."
    ),
    "experience_published": LogEvent(
        "info", ("entries", "row"), "Entries since the last such line, and the newest row in the stream; once a minute."
    ),
    "experience_delayed": LogEvent(
        "warning",
        ("problem",),
        "Redis or the journal cannot be used: nothing is published until it can; tried again, at last every 30 s. "
        "Or the publisher's own checkpoint cannot be written, which keeps nothing back.",
    ),
    "experience_resumed": LogEvent("info", ("row",), "Publishing goes on; `row` is the newest in the stream."),
    "experience_resent": LogEvent(
        "warning",
        ("after", "until"),
        "The stream lost entries (emptied, or restored): the experience after row `after` is sent again.",
    ),
    "experience_missing": LogEvent(
        "warning",
        ("before",),
        "Rows before this one gave no experience: other code wrote them, their file is gone, or the journal is an "
        "older copy and the trainer learned other rows in their place.",
    ),
    "experience_new_journal": LogEvent(
        "warning",
        ("problem",),
        "A journal of another epoch took the old one's place: it has a stream of its own; or an older copy did: what "
        "was read of the former past ends there.",
    ),
    "trainer_started": LogEvent(
        "info",
        ("desk", "redis", "store", "own_dir"),
        "`rltrader-trainer` learns from this desk's experience; its versions go into this store.",
    ),
    "cold_start": LogEvent(
        "info", ("figures",), "The first model is being made from recorded bars; its newest update, once a minute."
    ),
    "stream_found": LogEvent("info", ("stream",), "The desk's newest stream, from which it learns from here on."),
    "learning_not_shown": LogEvent(
        "warning", ("problem",), "What the dashboard shows of learning cannot be written; learning goes on."
    ),
    "version_published": LogEvent(
        "info",
        ("version", "parent", "sessions", "effective", "cannot_be_said", "leads"),
        "A version is in the store with its card: the sessions of its log, effective episodes, and its leads over the "
        "parent by estimator, or why there are none.",
    ),
    "version_failed": LogEvent(
        "error",
        ("session", "problem"),
        "The version that was taken after this session could not be published; learning goes on. It is left out, or, "
        "where the signing key cannot be used, tried again at each session's end.",
    ),
    "trainer_failed": LogEvent(
        "error",
        ("problem",),
        "The trainer ends with exit code 1; it goes on at its checkpoint when it is started again.",
    ),
    "served_unavailable": LogEvent(
        "warning",
        ("address", "problem"),
        "The desk's questions do not reach the process that serves answers: each is a HOLD until they do.",
    ),
    "question_refused": LogEvent(
        "warning",
        ("problem",),
        "A question in Redis is none of this release, or its model cannot be asked: it is not answered.",
    ),
    "trainer_delayed": LogEvent(
        "warning", ("problem",), "The stream cannot be read: nothing is learned until it can; tried again."
    ),
    "trainer_resumed": LogEvent("info", ("row",), "The stream is read again; `row` is the newest one learned from."),
    "experience_refused": LogEvent(
        "error",
        ("entry", "reason", "refused"),
        "An entry of the stream is no experience that this desk can have had: it is kept aside, acknowledged and never "
        "learned from; `refused` counts them since the trainer began.",
    ),
    "refused_not_kept": LogEvent("warning", ("problem",), "An entry that was refused could not be kept aside."),
    "experience_taken": LogEvent(
        "warning",
        ("entries", "by", "taken"),
        "Another consumer of the group read entries while the trainer runs: they are taken back in their order, once "
        "it is silent; `taken` counts them since the trainer began.",
    ),
    "experience_gap": LogEvent(
        "warning", ("after", "row"), "Entries between these two rows did not come: no return reaches across them."
    ),
    "learned": LogEvent(
        "info",
        ("row", "transitions", "updates", "rewards", "figures"),
        "At a checkpoint: sums of each term of the reward since the last one, and the learner's own figures.",
    ),
    "learning_frozen": LogEvent(
        "warning", ("row",), "By hand: experience is kept from here on, and no update is made."
    ),
    "learning_resumed": LogEvent("info", ("row",), "By hand: updates are made again."),
}


GUARD_EVENTS: dict[str, LogEvent] = {
    "guard_started": LogEvent(
        "info", ("desk", "act", "paths", "knows"), "`rltrader-guard` watches this desk; `knows` is what it kept of it."
    ),
    "desk_silent": LogEvent(
        "error", ("detail",), "No path brings the desk's heartbeat, and each brings the guard's own echo.", alarm=True
    ),
    "desk_heard": LogEvent("warning", ("detail",), "A desk that was silent is heard again.", alarm=True),
    "guard_acts": LogEvent("error", ("detail",), "The guard does this for a desk that is silent.", alarm=True),
    "guard_unprotected": LogEvent(
        "error",
        ("detail",),
        "A desk is silent, and this stays without a stop: no price is known, or it is in doubt.",
        alarm=True,
    ),
    "guard_unheard": LogEvent("warning", ("detail",), "No heartbeat came since the guard began.", alarm=True),
    "guard_blind": LogEvent(
        "warning", ("detail",), "A path does not bring the guard's own message back: it cannot act.", alarm=True
    ),
    "guard_doubts": LogEvent(
        "warning", ("detail",), "Genuine heartbeats bear a time that is not now: the guard cannot act.", alarm=True
    ),
    "guard_account": LogEvent("error", ("detail",), "The guard cannot look at the account.", alarm=True),
    "guard_keys": LogEvent("error", ("detail",), "The guard's keys open another account than the desk's.", alarm=True),
    "guard_configuration": LogEvent(
        "error",
        ("detail",),
        "The guard's configuration has a mistake: it goes on by that of its last start.",
        alarm=True,
    ),
    "guard_clock": LogEvent("warning", ("detail",), "The guard's clock and the broker's differ.", alarm=True),
    "guard_answered": LogEvent("info", ("what", "answer"), "What the broker answered to one of the guard's requests."),
    "guard_path": LogEvent("warning", ("path", "problem"), "A path cannot be used; tried again."),
    "guard_forgets": LogEvent(
        "warning", ("problem",), "What the guard remembers cannot be written; tried again. Its next start knows less."
    ),
}


GATEWAY_EVENTS: dict[str, LogEvent] = {
    "gateway_started": LogEvent(
        "info", ("port", "account", "sub_accounts"), "`rltrader-gateway` serves these sub-accounts of one account."
    ),
    "gateway_ready": LogEvent(
        "info", ("sub_accounts",), "The broker's stream and a report are there: clients are served."
    ),
    "gateway_away": LogEvent(
        "warning", ("detail",), "The broker is away: clients' streams are cut, and they see no stale account."
    ),
    "gateway_report_failed": LogEvent("warning", ("problem", "failures"), "The account could not be read."),
    "gateway_unanswered": LogEvent(
        "warning", ("order", "problem"), "The broker has not answered for an order: it is looked up."
    ),
    "gateway_hung": LogEvent(
        "warning",
        ("seconds",),
        "The process stood still, or its journal's disk did not answer: purchases and sales wait for a new report.",
    ),
    "gateway_look_up_failed": LogEvent(
        "warning", ("problem",), "The broker has not answered a look-up: it is asked again until it does."
    ),
    "gateway_exit_priced": LogEvent(
        "warning",
        ("order", "symbol", "limit_price"),
        "An exit met a person's working order, which no rule may cancel: it leaves with a limit beyond that order.",
    ),
    "gateway_exit_called": LogEvent(
        "warning",
        ("detail",),
        "An exit met a person's purchase at the market or a stop: it leaves by the broker's own close call.",
        alarm=True,
    ),
    "gateway_exit_waits": LogEvent(
        "warning",
        ("detail",),
        "A close call's limit order works for a minute: a person's order is in its way, or it was not priced anew.",
        alarm=True,
    ),
    "gateway_entry_ended": LogEvent(
        "warning",
        ("order", "reason"),
        "A purchase that rests from before a start would be denied now: it is cancelled, and its desk sees it expire.",
    ),
    "gateway_moved": LogEvent(
        "info", ("source", "target", "what", "by", "why"), "A person moved cash or shares between sub-accounts."
    ),
    "gateway_accepted": LogEvent(
        "warning",
        ("sub_account", "what", "by", "why"),
        "A person gave a sub-account what books and broker differed by: no line explained it.",
    ),
    "gateway_file_differs": LogEvent(
        "warning",
        ("detail",),
        "gateway.toml has another capital than a sub-account began with, or lacks one that holds; or a new journal "
        "begins over what a desk holds.",
    ),
    "gateway_panic": LogEvent("warning", ("of", "by"), "A person closes all of one sub-account, or of the account."),
    "gateway_lifted": LogEvent("info", ("sub_account",), "A person lifts the fence that a panic left."),
    "gateway_resumed": LogEvent("info", ("by", "why"), "A person allows new risk again."),
    "gateway_halted": LogEvent("error", ("reason", "detail"), "No new risk in any sub-account.", alarm=True),
    "gateway_differs": LogEvent(
        "error",
        ("detail",),
        "The sub-accounts do not add up to the broker's account: no new risk until they do.",
        alarm=True,
    ),
    "gateway_blocked": LogEvent(
        "error", ("detail",), "The broker takes no orders of the account: no sub-account can trade.", alarm=True
    ),
    "gateway_main_short": LogEvent(
        "error",
        ("detail",),
        "A person took shares or cash of sub-accounts: the account has less.",
        alarm=True,
    ),
    "gateway_desk_short": LogEvent(
        "error",
        ("detail",),
        "A sub-account sold more than it had: the account has less than others hold.",
        alarm=True,
    ),
    "gateway_line_unowned": LogEvent(
        "warning",
        ("detail",),
        "A line of the ledger is `main`'s, or divided, and its owner is not certain.",
        alarm=True,
    ),
    "gateway_line_amended": LogEvent("warning", ("detail",), "The broker changed or took back a line.", alarm=True),
    "gateway_fill_amended": LogEvent("warning", ("detail",), "The broker changed or took back a fill.", alarm=True),
    "gateway_sells_out": LogEvent(
        "warning", ("detail",), "A contract of the day is sold: its sub-account could not exercise it.", alarm=True
    ),
    "gateway_exercised": LogEvent("warning", ("detail",), "Contracts became shares, by the positions.", alarm=True),
    "gateway_stream_cut": LogEvent(
        "warning", ("path", "clients"), "A market stream of the broker is gone: its clients are closed, and repair."
    ),
    "gateway_stream_silent": LogEvent(
        "warning", ("path",), "A market stream was silent when a client came back to it: it is opened anew."
    ),
    "gateway_symbols_refused": LogEvent(
        "warning",
        ("path", "symbols", "symbols_max"),
        "All clients together would have more symbols than the plan streams: refused with 405.",
    ),
    "gateway_bars_missing": LogEvent(
        "warning", ("path", "symbols", "problem"), "Bars since the open could not be read for a new subscription."
    ),
    "gateway_stream_failed": LogEvent(
        "error", ("path", "problem"), "A market stream ended by a fault of the gateway; trading goes on.", alarm=True
    ),
    "gateway_order_unreadable": LogEvent(
        "warning", ("detail",), "An order of a kind that is not followed.", alarm=True
    ),
}


RECORDING_EVENTS: dict[str, LogEvent] = {
    "recording_started": LogEvent(
        "info", ("contracts", "room"), "A session's option quotes are recorded: contracts now, and those it may add."
    ),
    "recording_narrowed": LogEvent(
        "warning",
        ("reason", "before", "room"),
        "Fewer contracts are recorded from here on, so that the desk has the stream and the processor.",
    ),
    "recording_stopped": LogEvent(
        "warning", ("reason",), "Recording ended for this session: disk full or slow, or a fault. The desk goes on."
    ),
    "recording_unfinished": LogEvent(
        "warning",
        ("reason",),
        "The minutes of an earlier session became no file: they or its former file are damaged. This one is recorded.",
    ),
    "recording_finished": LogEvent(
        "info", ("file", "rows", "minutes", "damaged"), "A session's file of option quotes is whole."
    ),
}


LOG_EVENTS: dict[str, LogEvent] = {
    "run_started": LogEvent(
        "info",
        ("desk", "mode", "account", "strategy", "tape", "synthetic", "state_dir", "epoch", "code", "resumed_at_event"),
        "The daemon took over a state directory; `resumed_at_event` 0 means a fresh journal.",
    ),
    "symbol_assumed": LogEvent(
        "warning", ("tape", "symbol"), "The tape has no symbol column; the strategy's only symbol was assumed."
    ),
    "prices_adjusted": LogEvent(
        "info",
        ("tape",),
        "The tape has a column adj_close: open, high, low and close are multiplied by adj_close / close.",
    ),
    "rows_left_out": LogEvent(
        "info",
        ("outside_hours", "other_symbols", "rejected"),
        "Tape rows that were no bars of this strategy's regular sessions, and rejected ones by reason, at the end.",
    ),
    "replay_remark": LogEvent(
        "warning", ("remark",), "What the replay's figures alone would hide, and its cure, at the end."
    ),
    "option_quotes_used": LogEvent(
        "info",
        (
            "file",
            "synthetic",
            "sessions",
            "sessions_quoted",
            "first_date",
            "last_date",
            "asked",
            "recorded",
            "standing",
            "missing",
            "faulty_rows",
            "fills_recorded",
            "fills_modelled",
        ),
        "A replay with recorded option quotes ended: sessions of the tape and those with quotes, contracts times "
        "minutes that were asked for and what the file had, fills at recorded quotes and at Black-Scholes prices.",
    ),
    "no_model": LogEvent(
        "warning",
        ("reason",),
        "The store has no model to start with: the desk waits for it and trades nothing (`policy.wait_for_first`).",
    ),
    "first_model": LogEvent(
        "info", ("version",), "The first version came, and is `current` from here on: the desk starts with it."
    ),
    "model_verified": LogEvent(
        "info", ("version", "promoted", "feed", "provider"), "The model's hash, digest and golden outputs are right."
    ),
    "model_warning": LogEvent(
        "warning", ("version", "reason"), "The model runs here but would be refused with real money."
    ),
    "recovered": LogEvent(
        "info", ("events_replayed", "under_way"), "Recovery replayed the journal after its snapshot."
    ),
    "snapshot_passed_over": LogEvent(
        "error",
        ("snapshot",),
        "A snapshot could not be used, and why: recovery began at an older one, or at the first event.",
        alarm=True,
    ),
    "state_dir_held": LogEvent(
        "warning",
        ("state_dir", "process", "wait_s"),
        "Another process has the state directory: the start waits for its end so long, then it is refused.",
    ),
    "rules_changed": LogEvent(
        "warning",
        ("tables",),
        "The trading rules differ from those this journal ran by before; they hold from here on.",
    ),
    "session_started": LogEvent(
        "info", ("date", "equity_usd"), "A regular session was scheduled; its limits are fresh."
    ),
    "session_ended": LogEvent(
        "info",
        ("date", "equity_usd", "realized_usd", "trades"),
        "The regular session closed; totals since the start, `trades` those that the desk closed.",
    ),
    "order_submitted": LogEvent(
        "info",
        ("client_order_id", "symbol", "side", "quantity", "limit_price", "intent"),
        "An order was journaled and released; `limit_price` null is a market order. Of a daily desk: debug.",
    ),
    "order_cancel_requested": LogEvent(
        "info", ("client_order_id",), "A cancel was journaled and released. Of a daily desk: debug."
    ),
    "order_filled": LogEvent(
        "info",
        ("client_order_id", "symbol", "side", "cumulative_quantity", "price"),
        "A fill was booked. Of a daily desk: debug.",
    ),
    "trade_closed": LogEvent(
        "info",
        ("symbol", "quantity", "price", "pnl_usd", "held_s", "reason", "decision"),
        "A position is flat again: the quantity and average price of its exits (after a restart: of those since), why "
        "the last one left, and the whole trade's profit after fees.",
    ),
    "basket_decided": LogEvent(
        "info",
        ("date", "decision", "action", "outcome", "legs"),
        "A daily desk's decision for this session: what it is called, what became of it, how many symbols it changes.",
    ),
    "basket_reached": LogEvent(
        "info",
        ("decision", "apart", "largest", "symbol"),
        "Nothing more of a basket is to be traded: the sum of the absolute differences between the weights held and "
        "those wanted, and the largest of them, as parts of the equity.",
    ),
    "basket_traded": LogEvent(
        "info",
        ("date", "orders", "fills", "bought_usd", "sold_usd", "costs_usd", "given_up"),
        "What a daily desk traded in a session that ended; `given_up` are the shares that were not had, by symbol.",
    ),
    "order_rejected": LogEvent("warning", ("client_order_id", "reason"), "The broker refused an order."),
    "halted": LogEvent(
        "error",
        ("reason", "detail"),
        "The desk takes no new risk until `rltraderctl resume`; docs/OPERATIONS.md has the reason's heading.",
    ),
    "reconciled": LogEvent(
        "info", ("equity_usd", "positions"), "Book and broker agree: new risk is allowed as far as the gates let it."
    ),
    "alarm": LogEvent("warning", ("alarm", "detail"), "Something needs a person; docs/OPERATIONS.md has its heading."),
    # --- the live feed
    "feed_chosen": LogEvent(
        "info", ("name", "options", "how"), "`feed.name` or `feed.options` is `auto`: the feeds that this desk uses."
    ),
    "stream_up": LogEvent("info", ("url", "subscribed"), "A market stream is open and subscribed."),
    "stream_lost": LogEvent(
        "warning", ("url", "reason", "wait_s"), "A market stream is gone; it is opened again after the wait."
    ),
    "stream_busy": LogEvent(
        "warning",
        ("url", "reason", "wait_s"),
        "Alpaca still counts an earlier connection: another daemon, or a dead one.",
        alarm=True,
    ),
    "stream_refused": LogEvent(
        "error",
        ("url", "reason", "wait_s"),
        "Alpaca refused the keys or the feed: check both; tried again each minute.",
        alarm=True,
    ),
    "stream_error": LogEvent("warning", ("url", "code", "text"), "A market stream sent an error."),
    "subscription_refused": LogEvent(
        "error",
        ("url", "symbols", "code", "text"),
        "A market stream does not give these symbols: nothing comes for them.",
        alarm=True,
    ),
    "message_unreadable": LogEvent(
        "warning",
        ("url", "what", "count"),
        "A stream's message could not be read; logged for the 1st, 2nd, 4th … of them.",
    ),
    "trading_status": LogEvent(
        "warning", ("symbol", "code", "text", "reason", "halted"), "The exchange halted or resumed trading.", alarm=True
    ),
    "feed_silent": LogEvent(
        "warning",
        ("symbol", "quiet_s"),
        "No bar came although the session runs: the stream is opened again.",
        alarm=True,
    ),
    "quotes_silent": LogEvent(
        "warning",
        ("contracts", "quiet_s"),
        "No quote of any watched contract, or none of a share, came for too long: the stream is opened again.",
        alarm=True,
    ),
    "bar_late": LogEvent("info", ("symbol", "start_ns"), "A bar came after its session's end and counts no more."),
    "feed_heard_again": LogEvent("info", ("symbol", "minutes"), "Bars come again after so many minutes of silence."),
    "repaired": LogEvent(
        "info", ("symbol", "reason", "fetched", "given"), "Bars were asked for over REST; `given` were missing."
    ),
    "repair_abandoned": LogEvent(
        "warning",
        ("symbol", "reason", "after_s"),
        "REST did not answer in time: streamed bars go on, minutes are missing.",
        alarm=True,
    ),
    "history_unavailable": LogEvent(
        "warning", ("symbol", "date", "problem", "wait_s"), "A session's bars could not be had; asked for again."
    ),
    "history_short": LogEvent(
        "warning",
        ("symbol", "bars", "expected"),
        "There is less history than the strategy needs to be warm.",
        alarm=True,
    ),
    "history_bar_bad": LogEvent("warning", ("symbol", "date", "problem"), "A bar of the history was refused."),
    "history_cache_bad": LogEvent(
        "warning", ("file", "problem"), "A cached session was damaged or could not be written; it is fetched instead."
    ),
    "symbol_refused": LogEvent(
        "error", ("symbol", "problem"), "Alpaca does not know the symbol, or does not give it.", alarm=True
    ),
    "chain_unlisted": LogEvent(
        "warning", ("date", "problem", "wait_s"), "The option contracts of a session could not be had; asked for again."
    ),
    "contracts_left_out": LogEvent(
        "warning", ("underlying", "count", "first"), "Contracts that could not be read were left out."
    ),
    "volatility_unknown": LogEvent(
        "info", ("underlying", "expiry", "problem"), "No implied volatility: a delta target finds no contract."
    ),
    "quotes_unavailable": LogEvent("warning", ("symbols", "problem"), "First quotes of contracts could not be had."),
    "feed_counts": LogEvent("info", ("date", "counts"), "What the feed did in a session, by kind."),
    # --- the broker
    "trade_stream_listening": LogEvent("info", ("url",), "Order updates are received."),
    "trade_stream_lost": LogEvent(
        "warning", ("detail", "retry_s"), "Order updates are not received; a report follows when they are again."
    ),
    "activity_stream_listening": LogEvent("info", (), "The stream of activities is heard as a second source."),
    "activity_stream_lost": LogEvent(
        "info", ("detail", "retry_s"), "The stream of activities is not heard; the reports go on as without it."
    ),
    "activity_unreadable": LogEvent("warning", ("problem",), "A line of the stream of activities could not be read."),
    "trade_stream_unauthorized": LogEvent("error", ("detail",), "The keys were refused for order updates.", alarm=True),
    "trade_update_malformed": LogEvent("warning", ("problem",), "An order update could not be read; the rest goes on."),
    "order_not_sent": LogEvent(
        "warning",
        ("client_order_id", "reason"),
        "Its validity passed, it was cancelled, or a panic began, before its turn came: it never left.",
    ),
    "order_unanswered": LogEvent(
        "warning",
        ("client_order_id", "problem"),
        "The broker did not answer: the order is looked up before anything else.",
    ),
    "cancel_unanswered": LogEvent("warning", ("client_order_id", "problem"), "The broker did not answer a cancel."),
    "look_up_unanswered": LogEvent("warning", ("client_order_id", "problem"), "A look-up had no answer; it goes on."),
    "report_failed": LogEvent(
        "warning", ("problem", "failures"), "The broker's report could not be had; asked for again."
    ),
    "clock_skew": LogEvent(
        "warning",
        ("skew_s", "doubt_s", "limit_s"),
        "The broker's clock differs from this host's: mend time sync.",
        alarm=True,
    ),
    "clock_leap": LogEvent(
        "error",
        ("by_s",),
        "The host's clock leapt against its monotonic one. Time here goes on without the leap until the broker's clock "
        "settles it. Mend time sync.",
        alarm=True,
    ),
    "clock_corrected": LogEvent(
        "warning", ("by_s",), "The broker's clock settled a leap: the desk's time was corrected by `by_s`."
    ),
    "clock_wrong": LogEvent(
        "error",
        ("by_s",),
        "The host's clock was so far ahead of the broker's at the start: the broker's is used. Mend time sync.",
        alarm=True,
    ),
    "clock_unverified": LogEvent(
        "warning", ("problem",), "The broker's clock could not be asked at the start: the host's is taken as it is."
    ),
    "clock_ahead": LogEvent(
        "error",
        ("by_s",),
        "The journal's newest time is so far ahead of the clock: what waits for a time waits. See `reset-clock`.",
        alarm=True,
    ),
    "ex_date_unknown": LogEvent("warning", ("symbol", "problem"), "The announcement of a dividend could not be read."),
    "ratio_unknown": LogEvent(
        "warning", ("symbol", "problem"), "The announcement of a split or spin-off could not be read."
    ),
    "announcements_unread": LogEvent(
        "warning",
        ("problem",),
        "The day's splits, spin-offs and mergers could not be read yet.",
    ),
    "ledger_line_unreadable": LogEvent("warning", ("line", "problem"), "A line of the broker's ledger was left out."),
    # --- the operator's side
    "command": LogEvent(
        "info", ("command", "channel", "who", "reason", "seq"), "A command was journaled as this event and carried out."
    ),
    "control_listening": LogEvent("info", ("socket",), "`rltraderctl` reaches the running daemon here."),
    "mqtt_up": LogEvent("info", ("broker", "commands"), "Telemetry flows to the broker; whether commands are taken."),
    "mqtt_lost": LogEvent(
        "warning", ("broker", "reason", "wait_s", "dropped"), "The broker is gone; it is tried again after the wait."
    ),
    "metrics_listening": LogEvent("info", ("url",), "Prometheus finds the metrics here."),
    "model_activated": LogEvent("info", ("version", "previous", "promoted"), "Another version answers from here on."),
    "ladder_moved": LogEvent(
        "info",
        ("version", "from_step", "to_step", "sessions", "reason", "detail"),
        "A challenger took a step of the ladder, or ended a session on it.",
    ),
    "ladder_held": LogEvent(
        "warning",
        ("reason",),
        "The shelf's holds.json is unreadable, a look failed, or a version waits for its files: until it is mended no "
        "version is proposed, or not that one.",
    ),
    "ladder_replay_lost": LogEvent(
        "warning", ("version", "problem"), "The process that replayed for a challenger was lost; it is started again."
    ),
    "claim_judged": LogEvent(
        "info",
        ("version", "verdict", "detail", "consequence", "former"),
        "What the model states of its risk was held against what the desk did.",
    ),
    "claim_held": LogEvent(
        "warning", ("reason",), "Claims cannot be judged, or the former version be named, until this is mended."
    ),
    "candidate_ready": LogEvent(
        "info", ("version",), "This version answers as a shadow of the live one; nothing is ordered."
    ),
    "alarm_command_failed": LogEvent("warning", ("alarm", "problem"), "The alarm command did not end well."),
    "drift_measured": LogEvent(
        "info",
        ("model", "decisions", "features_psi_max", "feature", "action_psi", "beyond"),
        "The largest population stability index of a feature, and that of the actions, against the training's; how "
        "many are beyond what is an alarm.",
    ),
    "drift_unmeasured": LogEvent(
        "info", ("model", "reason"), "Live features cannot be held against the training's; logged once a version."
    ),
    "drift": LogEvent(
        "warning",
        ("model", "detail"),
        "Features or actions are further from the training's than the limit.",
        alarm=True,
    ),
    "guard_silent": LogEvent(
        "error",
        ("silent_s", "limit_s"),
        "The guard on another host was not heard on any path for so long: nobody watches this desk from outside.",
        alarm=True,
    ),
    "guard_heard": LogEvent("info", (), "The guard is heard again."),
    "heartbeat_failed": LogEvent(
        "warning", ("problem",), "The heartbeat for the guard could not be written into guard.drop_dir."
    ),
    "fence_not_lifted": LogEvent(
        "error",
        ("problem",),
        "The broker did not confirm that the account takes new orders again; the next report shows it, and halts.",
    ),
    "wal_large": LogEvent(
        "warning",
        ("mib", "limit_mib"),
        "The journal's write-ahead log is long: a reader holds on to an old view of it.",
        alarm=True,
    ),
    "trainer_refused": LogEvent(
        "warning",
        ("refused", "stream"),
        "The trainer refused entries of this stream of experience: they are kept aside and never learned from.",
        alarm=True,
    ),
    "trainer_problem": LogEvent(
        "warning",
        ("problem",),
        "The desk's trainer gave no sign for half an hour, ends again and again, cannot work, or gets no decisions.",
        alarm=True,
    ),
    # --- the service
    "clock_stepped_back": LogEvent(
        "warning",
        ("by_s",),
        "The host's clock was set back: time here goes on at half speed until it has caught up. Mend time sync.",
        alarm=True,
    ),
    "session_planned": LogEvent(
        "info", ("date", "opens", "closes"), "A session's jobs are on the schedule; New York times."
    ),
    "alive": LogEvent("info", ("status",), "Every half hour of a session, in one line, what the desk is and holds."),
    "positions_kept": LogEvent(
        "warning",
        ("positions",),
        "The daemon ends and these stay open at the broker: nothing watches them until it starts.",
    ),
    "job_failed": LogEvent("error", ("job", "problem"), "A scheduled job raised; trading goes on.", alarm=True),
    "task_failed": LogEvent("error", ("task", "problem"), "A task that only watches raised and was restarted."),
    "stop_late": LogEvent("warning", ("open",), "The stop's deadline passed with these still open."),
    "day_ended": LogEvent(
        "info", ("date", "report", "archive"), "The day's report was written, and the journal copied where configured."
    ),
    "disk_low": LogEvent(
        "warning", ("free_mib", "journal_mib"), "Less disk is free than the journal's next days need.", alarm=True
    ),
    "calendar_ends": LogEvent(
        "warning",
        ("last", "days"),
        "The calendar's horizon is near: update exchange_calendars, restart the daemon.",
        alarm=True,
    ),
    # --- the end
    "stopping": LogEvent("info", ("reason",), "The daemon ends after the event under way: a signal, or a full disk."),
    "refused": LogEvent(
        "error", ("problem",), "The daemon does not start: configuration, files or model; exit code 2."
    ),
    "no_ballast": LogEvent(
        "error",
        ("problem",),
        "The reserve for a full disk cannot be made; a desk that holds something, or a gateway, starts without one.",
    ),
    "hang_unrecorded": LogEvent(
        "error",
        ("problem",),
        "The record of a hang cannot be written: should the daemon hang and end, its next start does not know where.",
    ),
    "strategy_ended": LogEvent(
        "error",
        ("call",),
        "The last run ended within this call of a strategy of one's own, without an error (`os._exit`, a kill, memory "
        "that ran out): its event is stepped once more.",
        alarm=True,
    ),
    "start_failed": LogEvent(
        "error",
        ("problem",),
        "The daemon cannot start now: the journal is locked, its disk full, failing or read-only, or the desk holds "
        "something and [desk], [paths], [alpaca] or [clock] has a mistake; exit code 1.",
    ),
    "journal_failed": LogEvent("error", ("problem",), "The journal cannot be written; the daemon ends, exit code 1."),
    "step_failed": LogEvent(
        "error",
        ("problem",),
        "A step raised: a bug; the event is journaled and marked. Or the engine does not keep up, or the broker's "
        "folder does not take an order over. Exit code 1.",
    ),
    "threads_left": LogEvent(
        "warning",
        ("threads",),
        "Threads that a strategy of your own started did not end with the daemon; its process ended without them, "
        "with the exit code that it had.",
    ),
    "progress_failed": LogEvent(
        "warning", ("problem",), "The progress bar raised and is shown no longer; the run goes on."
    ),
    "no_bars": LogEvent(
        "warning",
        ("tape", "cure"),
        "The tape held no bar of a regular session: nothing was replayed.",
    ),
    "chain_head": LogEvent(
        "info",
        ("row", "head"),
        "The journal's chain at this row: at starts, snapshots and ends, after the close. See `verify --against`.",
    ),
    "journal_rotated": LogEvent(
        "info",
        ("row", "old", "before_mib", "mib"),
        "The start put the journal's file aside at this row and goes on in a new one with the same chain.",
    ),
    "journal_not_rotated": LogEvent(
        "warning", ("reason",), "The journal is larger than `journal.rotate_mib` allows and goes on as it is."
    ),
    "run_ended": LogEvent(
        "info", ("events", "state_digest", "stopped_by"), "The run ended cleanly: journal durable, snapshot written."
    ),
    **RECORDING_EVENTS,
    **ONLINE_EVENTS,
    **GUARD_EVENTS,
    **GATEWAY_EVENTS,
}


def table() -> str:
    """The vocabulary as a Markdown table: what docs/LOGS.md shows."""
    lines = ["| event | level | fields | meaning |", "|---|---|---|---|"]
    for name, event in LOG_EVENTS.items():
        fields = ", ".join(f"`{field}`" for field in event.fields)
        level = f"{event.level}, alarm" if event.alarm else event.level
        lines.append(f"| `{name}` | {level} | {fields} | {event.meaning} |")
    return "\n".join(lines)
