package egress

// hostileHosts are URL authorities without a port, each of which must never be connected to. Names lead wherever
// hostileNames says.
func hostileHosts() []string {
	hosts := []string{
		// canonical IPv4 of every special range, first and last
		"0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200",
		"127.0.0.1", "127.0.0.2", "127.255.255.255", "168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2",
		"169.254.170.23", "169.254.255.255", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1",
		"192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "192.175.48.1", "198.18.0.1",
		"198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		// other spellings of IPv4
		"2130706433", "017700000001", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "0", "0x0", "00",
		"127.0.0.01", "127.000.000.001", "0x7f.1", "0300.0250.0.1", "3232235521", "0xa9fea9fe", "2852039166",
		"0251.0376.0251.0376", "169.254.43518", "127.0.0.1.", "10.0.0.1.", "1.2.3", "256.256.256.256", "1.2.3.4.5",
		"0X7F.0.0.1", "127.0x0.0.1", "4294967297",
		// IPv6 of every special range
		"[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::2]", "[::127.0.0.1]",
		"[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:8.8.8.8]",
		"[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a00:1]", "[100::1]",
		"[2001::1]", "[2001:0:7f00:1::]", "[2001:2::1]", "[2001:10::1]", "[2001:20::1]", "[2001:db8::1]", "[3fff::1]",
		"[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2620:4f:8000::1]", "[4000::1]", "[5f00::1]", "[8000::1]", "[fc00::1]",
		"[fd00::1]", "[fd00:ec2::254]", "[fd20:ce::254]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%251]", "[::1%25lo]",
		"[febf::1]", "[fec0::1]", "[feff::1]", "[ff02::1]", "[ff0e::1]", "[2600:1f00::5efe:7f00:1]",
		"[2600:1f00::200:5efe:a9fe:a9fe]",
		// names that are not plain
		"localhost.", "public.example.", "a..example", "-a.example", "a-.example", "a b.example", "exa%6dple.com",
		"１２７.0.0.1", "127。0。0。1", "ⓛocalhost", "lоcalhost", "example.com%00.evil", "a_very*odd.example",
		"public.example%20", "user@public.example", "user:secret@public.example",
	}
	for name := range hostileNames {
		hosts = append(hosts, name)
	}
	return hosts
}

// hostileNames are plain DNS names with hostile answers.
var hostileNames = map[string][]string{
	"localhost":            {"127.0.0.1", "::1"},
	"loop.evil.example":    {"127.0.0.1"},
	"private.evil.example": {"10.1.2.3"},
	"ula.evil.example":     {"fd12::1"},
	"meta.evil.example":    {"169.254.169.254"},
	"meta6.evil.example":   {"fd00:ec2::254"},
	"mapped.evil.example":  {"::ffff:127.0.0.1"},
	"nat64.evil.example":   {"64:ff9b::7f00:1"},
	"sixto4.evil.example":  {"2002:7f00:1::"},
	"teredo.evil.example":  {"2001:0:1::1"},
	"mixed.evil.example":   {"93.184.216.34", "10.0.0.1"},
	"mixed6.evil.example":  {"2606:2800:220:1::1", "::1"},
	"zone.evil.example":    {"fe80::1%eth0"},
	"zero.evil.example":    {"0.0.0.0"},
	"cgnat.evil.example":   {"100.64.3.4"},
	"bench.evil.example":   {"198.18.3.4"},
	"multi.evil.example":   {"224.0.0.251"},
	"none.evil.example":    {},
}
