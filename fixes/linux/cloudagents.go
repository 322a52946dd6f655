package linux

import "hyper2kvm/fixes/linux/table"

// cloudAgents switches off what a cloud's images run to speak with the cloud.
func cloudAgents() fix {
	return fix{
		id:  "linux/cloud-agents",
		why: "The agents of a cloud ask for its metadata again and again, delay the boot, and change accounts, network and keys.",
		plan: func(p *planner) error {
			for _, t := range cloudSets() {
				p.leave(t)
			}
			cloudRepos(p)
			osLogin(p)
			return nil
		},
	}
}

// cloudSets lists the agents. Rules of udev that come with them name devices by
// the buses of that cloud and match nothing elsewhere: they stay.
func cloudSets() []toolset {
	return []toolset{
		{
			name: "Azure's agent",
			services: []string{"walinuxagent", "waagent", "walinuxagent-network-setup", "azure-proxy-agent", "azure-vm-utils-selftest",
				"ephemeral-disk-warning"},
		},
		{
			name: "Amazon's agents",
			services: []string{"amazon-ssm-agent", "snap.amazon-ssm-agent.amazon-ssm-agent", "ec2-instance-connect", "hibinit-agent",
				"elastic-network-interfaces", "ec2-net-utils", "ec2-instance-connect-harvest-hostkeys", "policy-routes@.service",
				"refresh-policy-routes@.service", "refresh-policy-routes@.timer"},
		},
		{
			name: "Google's agents",
			services: []string{"google-guest-agent", "google-guest-agent-manager", "google-guest-compat-manager", "google-osconfig-agent",
				"google-startup-scripts", "google-shutdown-scripts", "google-oslogin-cache.timer", "google-oslogin-cache",
				"google-accounts-daemon", "google-clock-skew-daemon", "google-network-daemon", "google-ip-forwarding-daemon",
				"google-instance-setup", "google-network-setup", "google-disk-expand", "gce-disk-expand", "expand-root",
				"gce-workload-cert-refresh.timer", "google-cloud-ops-agent", "google-startup-scripts-onboot"},
		},
		{
			name: "Oracle Cloud's agent",
			services: []string{"oracle-cloud-agent", "oracle-cloud-agent-updater", "snap.oracle-cloud-agent.oracle-cloud-agent",
				"snap.oracle-cloud-agent.oracle-cloud-agent-updater", "ocid"},
		},
		{
			name:     "Alibaba Cloud's agents",
			services: []string{"aliyun", "aliyun-service", "AssistDaemon", "cloudmonitor", "ecs_mq-service", "aegis"},
		},
	}
}

// cloudRepos tells of package sources that answer inside the cloud only. Which
// others the guest may use is a matter of its subscription.
func cloudRepos(p *planner) {
	for _, dir := range []string{"etc/yum.repos.d", "etc/zypp/repos.d"} {
		for _, pattern := range []string{"rhui.repo", "rhui-client-config.repo"} {
			for _, name := range p.list(dir, pattern) {
				p.note("%s: packages of the cloud's subscription, which may not be given outside of it; left: register the guest anew", name)
			}
		}
	}
	if p.any("usr/sbin/registercloudguest") {
		p.note("SUSE's registration of cloud guests (registercloudguest) is valid in that cloud only; left: register the guest anew")
	}
}

// osLogin tells of logins that Google's accounts were used for.
func osLogin(p *planner) {
	data, ok := p.read("etc/nsswitch.conf")
	if !ok {
		return
	}
	for _, r := range table.Parse(data).Rows() {
		for i := 1; i < r.Len(); i++ {
			if r.Field(i) == "oslogin" || r.Field(i) == "cache_oslogin" {
				p.note("etc/nsswitch.conf: accounts of Google's OS Login do not exist outside of it; the guest's own stay")
				return
			}
		}
	}
}
