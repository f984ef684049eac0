{{- define "ax.labels" -}}
app.kubernetes.io/name: ax-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ax.operator.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "ax.gateway.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{/* Full reference of one of the project's images: (dict "root" $ "name" "ax-operator") */}}
{{- define "ax.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- if not $registry -}}
{{- fail "image.registry is empty: push the images with `make images push REGISTRY=registry.example/team`, then install with --set image.registry=registry.example/team" -}}
{{- end -}}
{{- printf "%s/%s:%s" $registry .name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end }}

{{/* Seconds of a duration such as 0, 3600, 30m, 12h, 7d. */}}
{{- define "ax.seconds" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := regexFind "[smhd]$" $text -}}
{{- mul $number (get (dict "" 1 "s" 1 "m" 60 "h" 3600 "d" 86400) $unit) -}}
{{- end }}

{{/* The port clients use, by whether the gateway ends TLS. */}}
{{- define "ax.gateway.tls" -}}
{{- $tls := .Values.gateway.tls -}}
{{- if $tls.secretName -}}
required
{{- else if $tls.insecure -}}
insecure
{{- else -}}
{{- fail "gateway.tls.secretName is empty: name a kubernetes.io/tls Secret of this namespace, or say aloud that clients are served in plain HTTP with --set gateway.tls.insecure=true" -}}
{{- end -}}
{{- end }}

{{- define "ax.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ax.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "ax.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a pod may run: nodeSelector, tolerations, priorityClassName of the operator's or the gateway's values. */}}
{{- define "ax.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The API token, for one container of a pod only: the one that asks the API server. */}}
{{- define "ax.tokenVolume" -}}
- name: token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]
{{- end }}

{{- define "ax.tokenMount" -}}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
