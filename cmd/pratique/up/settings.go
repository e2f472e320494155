package up

// serviceSettings are the services' own parts of the configuration.
func (r *Running) serviceSettings(step string) (map[string]any, error) {
	runs, err := r.runsDir()
	if err != nil {
		return nil, err
	}
	if _, err := r.dir.secret(secretRunKey); err != nil {
		return nil, err
	}
	return map[string]any{
		"intake": map[string]any{"trusted_registry": r.registryAddress("trusted"), "bootstrap": r.bootstrap()},
		"dispatch": map[string]any{
			"runner":     map[string]any{"dir": runs, "binary": step},
			"quarantine": map[string]any{"host": r.registryAddress("quarantine"), "key_file": r.dir.join("secrets", secretRunKey)},
			"database":   map[string]any{"dir": r.dir.join("vulnerability-database")},
		},
		"evidence": map[string]any{
			"quarantine": r.registrySettings("quarantine", userEvidence), "store": r.registrySettings("evidence", userEvidence),
		},
		"release": map[string]any{
			"quarantine": r.registrySettings("quarantine", userRelease), "trusted": r.registrySettings("trusted", userRelease),
		},
	}, nil
}

func (r *Running) registrySettings(name, user string) map[string]any {
	return map[string]any{
		"host": r.registryAddress(name), "username": user, "password": r.dir.join("secrets", secretPrefix+name+"_"+user),
	}
}

// bootstrap makes the personas known with their roles.
func (r *Running) bootstrap() map[string]any {
	var tenants, bindings []any
	for slug, id := range r.Connection.Tenants {
		tenants = append(tenants, map[string]any{"id": id, "slug": slug, "name": slug})
	}
	for _, p := range Personas() {
		bindings = append(bindings, map[string]any{
			"issuer": r.issuer(), "subject": p.Name, "name": p.FullName, "email": p.email(), "role": string(p.Role), "tenant": p.Tenant,
		})
	}
	return map[string]any{"tenants": tenants, "bindings": bindings}
}
