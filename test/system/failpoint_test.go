package system

// failpoints are the places where each service dies, one per life. Places that the story does not pass are left out: a service that waits to
// die there would hide the next place.
func failpoints() map[string][]string {
	return map[string][]string{
		"intake": {
			"intake.before_commit_epr", "intake.after_commit_create=2", "intake.before_commit_decide=1", "intake.after_commit_permit",
			"intake.before_commit_fold=4",
		},
		"approval": {"approval.before_open"},
		"dispatch": {"dispatch.before_intent", "dispatch.before_start", "dispatch.after_start", "dispatch.before_finish", "dispatch.after_finish"},
		"evidence": {"evidence.before_collect", "evidence.after_copy", "evidence.before_record", "evidence.after_remove"},
		"release":  {"release.before_commit_approve", "release.before_copy", "release.after_copy", "release.before_tag", "release.after_tag", "release.before_record"},
		"notify":   {"notify.before_commit=2", "notify.after_commit=3"},
	}
}
