// Hyperkube packs etcd and the Kubernetes components that a one-node cluster needs into one program.
//
// The component is the program's own name when it is started through a link of that name, otherwise its
// first argument. kubectl is left out: it comes ready built and would add a minute of compilation.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

type component func() int

func fromCobra(build func() *cobra.Command) component {
	return func() int { return cli.Run(build()) }
}

var components = map[string]component{
	"etcd":                    runEtcd,
	"kube-apiserver":          fromCobra(apiserver.NewAPIServerCommand),
	"kube-controller-manager": fromCobra(controllers.NewControllerManagerCommand),
	"kube-proxy":              fromCobra(proxy.NewProxyCommand),
	"kube-scheduler":          fromCobra(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubelet":                 fromCobra(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
}

func runEtcd() int {
	etcdmain.Main(os.Args)
	return 0
}

func choose() (component, bool) {
	if run, ok := components[filepath.Base(os.Args[0])]; ok {
		return run, true
	}
	if len(os.Args) < 2 {
		return nil, false
	}
	run, ok := components[os.Args[1]]
	os.Args = os.Args[1:]
	return run, ok
}

func main() {
	run, ok := choose()
	if !ok {
		names := make([]string, 0, len(components))
		for name := range components {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintln(os.Stderr, "usage: hyperkube COMPONENT [FLAGS]; components:", strings.Join(names, ", "))
		os.Exit(2)
	}
	os.Exit(run())
}
